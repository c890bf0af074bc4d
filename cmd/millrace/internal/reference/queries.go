package reference

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"millrace/cmd/millrace/internal/strictjson"
	"millrace/codec"
	"millrace/dbasync"
	"millrace/engine"
)

// The handle of Queries.
const (
	queries  = 3
	subQuery = 1
)

// catalogue is every query that can be asked for over the wire. Each takes integers
// within its bounds.
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

// waiting are a session's queries that have not been answered, oldest first: answers of
// one handle leave in the order of their requests.
type waiting struct{ list []*pendingQuery }

type pendingQuery struct{ answer, release func() }

// done notes an answer and sends those that nothing earlier holds back. Strand only.
func (w *waiting) done(q *pendingQuery, answer func()) {
	q.answer = answer
	for len(w.list) > 0 && w.list[0].answer != nil {
		first := w.list[0]
		first.answer()
		w.list[0] = nil
		w.list = w.list[1:]
		first.release()
	}
}

// Queries registers 3/1. A nil db answers ERROR 11, and so does one that is not ready.
func Queries(r *Router, db *dbasync.DB, ready func() bool) {
	if db == nil {
		r.Handle(queries, subQuery, func(s *engine.Session, p codec.Packet) {
			Refuse(s, p, engine.CodeUnavailable, "the server runs without a database")
		})
		return
	}
	all := newPerSession[waiting](r, nil)
	r.Blocking(queries, subQuery, func(s *engine.Session, p codec.Packet) {
		query(s, p, db, ready, all.get(s, func() *waiting { return new(waiting) }))
	})
}

func query(s *engine.Session, p codec.Packet, db *dbasync.DB, ready func() bool, w *waiting) {
	q := &pendingQuery{release: s.Hold()}
	p = p.Clone()
	w.list = append(w.list, q)
	refuse := func(code engine.ErrorCode, text string) {
		w.done(q, func() { Refuse(s, p, code, text) })
	}
	var name string
	var list []byte
	if err := strictjson.Decode(p.Body, strictjson.String("name", &name), strictjson.Any("args", &list)); err != nil {
		refuse(engine.CodeBadBody, err.Error())
		return
	}
	entry, ok := catalogue[name]
	if !ok {
		refuse(engine.CodeNotFound, "no such query")
		return
	}
	args, err := integers(list, entry.args)
	if err != nil {
		refuse(engine.CodeBadBody, err.Error())
		return
	}
	if !ready() {
		refuse(engine.CodeUnavailable, "the database is down")
		return
	}
	err = db.Query(s.Context(), s, func(res dbasync.QueryResult) {
		if res.Stale {
			q.release() // the session has gone, and its queue with it
			return
		}
		w.done(q, func() { answerQuery(s, p, res) })
	}, entry.stmt, args...)
	switch {
	case errors.Is(err, dbasync.ErrQueueFull):
		refuse(engine.CodeOverloaded, "too many queries wait")
	case err != nil:
		refuse(engine.CodeUnavailable, "the database is down")
	}
}

// integers reads a JSON array of integers, as many as there are bounds.
func integers(list []byte, want []bounds) ([]any, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(list, &raw); err != nil || raw == nil {
		return nil, errors.New("args must be an array")
	}
	if len(raw) != len(want) {
		return nil, fmt.Errorf("args has %d elements, want %d", len(raw), len(want))
	}
	var out []any
	for i, b := range want {
		var n int64
		if err := json.Unmarshal(raw[i], &n); err != nil || string(raw[i]) == "null" || n < b.least || n > b.most {
			return nil, fmt.Errorf("args[%d] must be an integer from %d to %d", i, b.least, b.most)
		}
		out = append(out, n)
	}
	return out, nil
}

type queryReply struct {
	Columns []string `json:"columns"`
	Rows    [][]any  `json:"rows"`
	Tag     string   `json:"tag"`
}

func answerQuery(s *engine.Session, p codec.Packet, res dbasync.QueryResult) {
	switch {
	case res.Outcome == dbasync.SQLError:
		Refuse(s, p, engine.CodeInternal, "the statement failed")
	case errors.Is(res.Err, dbasync.ErrTimeout):
		Refuse(s, p, engine.CodeTimeout, "the query took too long")
	case errors.Is(res.Err, dbasync.ErrResultTooLarge):
		Refuse(s, p, engine.CodeLimit, "the result is too large")
	case res.Err != nil:
		Refuse(s, p, engine.CodeUnavailable, res.Outcome.String()+": the database is down")
	default:
		reply := queryReply{Columns: res.Columns(), Rows: [][]any{}, Tag: res.Tag()}
		rows := res.Rows()
		defer rows.Close()
		for rows.Next() {
			row, err := rows.Values()
			if err != nil {
				Refuse(s, p, engine.CodeInternal, "the result could not be read")
				return
			}
			for i := range row {
				row[i] = plain(row[i])
			}
			reply.Rows = append(reply.Rows, row)
		}
		answer(s, p, reply)
	}
}

// plain turns a value into what its JSON shall be: numeric a string, timestamps
// RFC 3339, bytea base64.
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
