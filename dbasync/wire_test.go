package dbasync

import (
	"encoding/binary"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// script builds a server's side of a burst of three: the second fails.
func script() []byte {
	var b []byte
	add := func(m pgproto3.BackendMessage) { b, _ = m.Encode(b) }
	query := func(tag string) {
		add(&pgproto3.BindComplete{})
		add(&pgproto3.DataRow{Values: [][]byte{{0, 0, 0, 1}}})
		add(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
	}
	simple := func(tag string) {
		add(&pgproto3.BindComplete{})
		add(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
	}
	add(&pgproto3.NoticeResponse{Message: "hello"})
	simple("BEGIN")
	add(&pgproto3.ParseComplete{})
	query("SELECT 1")
	simple("COMMIT")
	add(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "22012", Message: "division by zero"})
	add(&pgproto3.ReadyForQuery{TxStatus: 'E'})
	query("SELECT 1")
	add(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return b
}

// owed is a lane's FIFO that script answers.
func owed(db *DB) (*answers, []*request) {
	desc := newDescription(nil, fieldsOf(pgtype.Int4OID), pgtype.NewMap(), 10)
	sh := db.shapes.get("select 1")
	var rs []*request
	ask := func() *request {
		r := db.newRequest()
		r.shape, r.desc, r.rows = sh, desc, true
		r.state.Store(stSent)
		r.refs.Add(1) // the test's own
		rs = append(rs, r)
		return r
	}
	a := &answers{shapes: db.shapes, limits: limits{10, 1 << 16}}
	a.view.push([]entry{{kind: kBegin}, {kind: kChain, req: ask()}, {kind: kChain, req: ask()}, {kind: kChain, req: ask()},
		{kind: kSync}, {kind: kStrict, req: ask()}, {kind: kBegin}, {kind: kGroup, req: ask()}, {kind: kGroup, req: ask()},
		{kind: kCommit}, {kind: kSync}, {kind: kDescribe, shape: sh}, {kind: kRollback}, {kind: kSync}})
	return a, rs
}

func offline(tb testing.TB) *DB {
	tb.Helper()
	db, err := New(Config{URL: "postgres://localhost/none"})
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

// feedAll feeds data in pieces of n bytes.
func feedAll(x *wire, s sink, data []byte, n int) error {
	for len(data) > 0 {
		k := copy(x.space()[:min(n, len(x.space()))], data)
		data = data[k:]
		if err := x.feed(k, s); err != nil {
			return err
		}
	}
	return nil
}

func TestAnswersInAnyPieces(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64, 1 << 16} {
		a, rs := owed(offline(t))
		var x wire
		if err := feedAll(&x, a, script(), n); err != nil {
			t.Fatalf("pieces of %d: %v", n, err)
		}
		if len(a.fin) != 3 || len(a.again) != 1 || len(a.gone) != 3 || a.again[0] != rs[2] {
			t.Fatalf("pieces of %d: got %d finished, %d again, %d gone", n, len(a.fin), len(a.again), len(a.gone))
		}
		for i, want := range map[int]Outcome{0: OK, 1: SQLError, 3: OK} {
			if got := rs[i].res; got.Outcome != want {
				t.Errorf("pieces of %d: query %d: got %v, want %v", n, i, got.Outcome, want)
			}
		}
		if rs[0].res.Len() != 1 || rs[0].res.Tag() != "SELECT 1" {
			t.Errorf("pieces of %d: got %d rows, %q", n, rs[0].res.Len(), rs[0].res.Tag())
		}
	}
}

// FuzzAnswers: whatever a server says, nothing panics, no request is finished or put
// back twice, and memory stays bounded.
func FuzzAnswers(f *testing.F) {
	f.Add(script(), uint8(3))
	f.Add([]byte{'E', 0, 0, 0, 5, 0}, uint8(1))
	f.Add(binary.BigEndian.AppendUint32([]byte{'D'}, 1<<29), uint8(200))
	f.Add(binary.BigEndian.AppendUint32([]byte{'T'}, 1<<19), uint8(200))
	db := offline(f)
	f.Fuzz(func(t *testing.T, data []byte, n uint8) {
		a, rs := owed(db)
		var x wire
		_ = feedAll(&x, a, data, int(n)+1)
		seen := make(map[*request]int)
		for _, list := range [][]*request{a.gone, a.again} {
			for _, r := range list {
				seen[r]++
			}
		}
		for i := a.pos; i != a.view.tail; i++ {
			if r := a.view.at(i).req; r != nil && !(i == a.pos && a.phase == phAgain) {
				seen[r]++
			}
		}
		for _, h := range a.held {
			seen[h.req]++
		}
		for i, r := range rs {
			if seen[r] != 1 {
				t.Fatalf("request %d is in %d places", i, seen[r])
			}
		}
		if len(x.buf) > maxMessage || len(a.rows.data) > a.limits.bytes {
			t.Fatalf("buffer %d, rows %d", len(x.buf), len(a.rows.data))
		}
		for _, r := range a.fin {
			readAll(r.res)
		}
	})
}

// readAll decodes everything; errors are fine.
func readAll(res QueryResult) {
	rows := res.Rows()
	defer rows.Close()
	for rows.Next() {
		_, _ = rows.Values()
	}
}

func TestFirstWord(t *testing.T) {
	for sql, want := range map[string]string{
		"select 1": "select", " \n\tBEGIN": "begin", "-- x\ncommit": "commit", "/* a /* b */ c */ Rollback": "rollback",
		"((select 1))": "select", ";;start transaction": "start", "": "", "-- only": "", "/* open": "", "/**/set x=1": "set",
	} {
		if got := firstWord(sql); got != want {
			t.Errorf("%q: got %q, want %q", sql, got, want)
		}
	}
}

func fieldsOf(oids ...uint32) []pgconn.FieldDescription {
	fs := make([]pgconn.FieldDescription, len(oids))
	for i, o := range oids {
		fs[i] = pgconn.FieldDescription{Name: "c", DataTypeOID: o}
	}
	return fs
}
