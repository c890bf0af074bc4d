package reference

import (
	"bytes"
	"encoding/base64"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"millrace/codec"
	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
)

// The handle of Queries.
const (
	queries  = 3
	subQuery = 1
)

// catalogue has every query that clients can run. Each takes integers within its bounds.
var catalogue = map[string]struct {
	stmt dbasync.Stmt
	args []bounds
}{
	"world":  {dbasync.Stmt{SQL: "select id, randomnumber from world where id = $1::bigint", ReadOnly: true}, []bounds{anyInt}},
	"worlds": {dbasync.Stmt{SQL: "select id, randomnumber from world order by id limit $1::bigint", ReadOnly: true}, []bounds{{0, math.MaxInt64}}},
	"bump":   {dbasync.Stmt{SQL: "update world set randomnumber = randomnumber + 1 where id = $1::bigint returning id, randomnumber"}, []bounds{anyInt}},
	"slow":   {dbasync.Stmt{SQL: "select pg_sleep($1::bigint / 1000.0)", ReadOnly: true, Slow: true}, []bounds{{0, math.MaxUint32}}},
	"fail":   {dbasync.Stmt{SQL: "select 1 / 0 as fails", ReadOnly: true}, nil},
}

type bounds struct{ least, most int64 }

var anyInt = bounds{math.MinInt64, math.MaxInt64}

type queryRequest struct {
	Name string             `json:"name"`
	Args stdjson.RawMessage `json:"args"`
}

type queryReply struct {
	Columns []string `json:"columns"`
	Rows    [][]any  `json:"rows"`
	Tag     string   `json:"tag"`
}

// Queries registers 3/1. It answers ERROR 11 if db is nil or not ready. The database limits the
// time that a query takes.
func Queries(c *services.Controller, db *dbasync.DB, ready func() bool) error {
	h := services.Handle(queries, subQuery)
	if db == nil {
		return c.Raw(h, func(*engine.Session, codec.Packet) error {
			return services.Errorf(engine.CodeUnavailable, "the server runs without a database")
		}, services.Name("query"), services.Blocking())
	}
	return services.Register(c, h, services.Stages[queryRequest, queryReply]{
		Handle: func(ctx *services.Context, req *queryRequest, _ *queryReply) error { return query(ctx, req, db, ready) },
	}, services.Name("query"), services.Blocking(), services.Timeout(services.Forever))
}

// query answers when the result arrives: further requests are served meanwhile, and answers are
// sent in the order of their requests.
func query(ctx *services.Context, req *queryRequest, db *dbasync.DB, ready func() bool) error {
	entry, ok := catalogue[req.Name]
	if !ok {
		return services.Errorf(engine.CodeNotFound, "no such query")
	}
	args, err := integers(req.Args, entry.args)
	if err != nil {
		return &services.Error{Code: engine.CodeBadBody, Text: err.Error()}
	}
	if !ready() {
		return services.Errorf(engine.CodeUnavailable, "the database is down")
	}
	s, reply := ctx.Session(), ctx.Defer()
	err = db.Query(s.Context(), s.Submitter(engine.EventQuery), func(res dbasync.QueryResult) {
		if res.Stale {
			reply.Done(nil, nil) // the session has closed, nothing is sent
			return
		}
		answer, err := rowsOf(res)
		if err != nil {
			reply.DoneHere(nil, err)
			return
		}
		reply.DoneHere(answer, nil)
	}, entry.stmt, args...)
	switch {
	case errors.Is(err, dbasync.ErrQueueFull):
		return &services.Error{Code: engine.CodeOverloaded, Text: "too many queries are waiting", Err: err}
	case err != nil:
		return &services.Error{Code: engine.CodeUnavailable, Text: "the database is down", Err: err}
	}
	return nil
}

// integers reads a JSON array of integers, as many as there are bounds.
func integers(list []byte, want []bounds) ([]any, error) {
	var all []int64
	if err := stdjson.Unmarshal(list, &all); err != nil || len(all) != len(want) || bytes.Contains(list, []byte("null")) {
		return nil, whyNot(list, want)
	}
	out := make([]any, len(all))
	for i, n := range all {
		if n < want[i].least || n > want[i].most {
			return nil, whyNot(list, want)
		}
		out[i] = n
	}
	return out, nil
}

// whyNot describes what is wrong with a list that integers rejects.
func whyNot(list []byte, want []bounds) error {
	var raw []stdjson.RawMessage
	if err := stdjson.Unmarshal(list, &raw); err != nil || raw == nil {
		return errors.New("args must be an array")
	}
	if len(raw) != len(want) {
		return fmt.Errorf("args has %d elements, want %d", len(raw), len(want))
	}
	for i, b := range want {
		var n int64
		if err := stdjson.Unmarshal(raw[i], &n); err != nil || string(raw[i]) == "null" || n < b.least || n > b.most {
			return fmt.Errorf("args[%d] must be an integer from %d to %d", i, b.least, b.most)
		}
	}
	return nil
}

// rowsOf returns a result as the answer, or the error for the client.
func rowsOf(res dbasync.QueryResult) (*queryReply, error) {
	switch {
	case res.Outcome == dbasync.SQLError:
		return nil, &services.Error{Code: engine.CodeInternal, Text: "the statement failed"}
	case errors.Is(res.Err, dbasync.ErrTimeout):
		return nil, &services.Error{Code: engine.CodeTimeout, Text: "the query took too long", Err: res.Err}
	case errors.Is(res.Err, dbasync.ErrResultTooLarge):
		return nil, &services.Error{Code: engine.CodeLimit, Text: "the result is too large", Err: res.Err}
	case errors.Is(res.Err, dbasync.ErrResultDropped):
		return nil, &services.Error{Code: engine.CodeOverloaded, Text: "the result waited too long", Err: res.Err}
	case res.Err != nil:
		return nil, &services.Error{Code: engine.CodeUnavailable, Text: res.Outcome.String() + ": the database is down", Err: res.Err}
	}
	reply := &queryReply{Columns: res.Columns(), Rows: [][]any{}, Tag: res.Tag()}
	rows := res.Rows()
	defer rows.Close()
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return nil, &services.Error{Code: engine.CodeInternal, Text: "the result could not be read", Err: err}
		}
		for i := range row {
			row[i] = plain(row[i])
		}
		reply.Rows = append(reply.Rows, row)
	}
	return reply, nil
}

// plain converts a value for JSON: numeric to a string, timestamps to RFC 3339, bytea to base64.
func plain(v any) any {
	switch x := v.(type) {
	case pgtype.Numeric:
		text, err := x.Value()
		if err != nil {
			return nil
		}
		return text
	case time.Time:
		return x.Format(time.RFC3339Nano)
	case []byte:
		return base64.StdEncoding.EncodeToString(x)
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Sprint(x)
		}
	}
	return v
}
