package dbasync

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// exchange is a script of calls: each ends before the next begins, unless they travel
// together, so that it says the same to the server each time.
type exchange struct {
	name   string
	change func(*Config) // nil: nothing
	run    func(*play)
	// startup: that of its connections is swept too. All others' are the same.
	startup bool
}

var exchanges = []exchange{
	{"chain", func(c *Config) { c.GroupReads = true }, func(p *play) { playLane(p, "insert", Stmt{}) }, true},
	{"strict", func(c *Config) { c.Strict = true }, func(p *play) { playLane(p, "insert", Stmt{}) }, false},
	{"keyed", nil, func(p *play) { playLane(p, keyedInsert, Stmt{Key: 7}) }, false},
	{"retry", nil, func(p *play) { playLane(p, "insert to be retried", Stmt{Retry: true}) }, false},
	{"slow", nil, playSlow, true},
	{"blocking", nil, playBlocking, false},
	{"batch", nil, playBatch, false},
	{"tx", nil, playTx, false},
	{"tx that ends itself", nil, playOwnTx, false},
	{"tx retried", nil, playRetriedTx, false},
	{"copy", nil, playCopy, false},
	{"stream", nil, playStream, false},
}

// together makes what call begins travel in one burst: it waits behind a query that
// takes a moment.
func (p *play) together(call func()) {
	p.begin(p.writes("hold", 0), func(done func(QueryResult)) error {
		return p.db.Exec(context.Background(), nil, done, Stmt{SQL: "select pg_sleep(0.004)"})
	})
	call()
	p.wait()
}

// playLane sends queries alone and in bursts, one that fails in their midst.
func playLane(p *play, what string, stmt Stmt) {
	p.insert(what, stmt)
	p.wait()
	p.together(func() {
		for range 3 {
			p.insert(what, stmt)
		}
		p.fails(what+" that fails", stmt)
		p.insert(what, stmt)
		p.answersLong(what+" with a long answer", stmt)
		p.insert(what, stmt)
		read := stmt
		read.ReadOnly = true
		p.reads("read", read)
		p.reads("read", read)
	})
	p.together(func() {
		p.insert(what, stmt)
		p.insert(what, stmt)
		p.failsLate(what+" that fails at its commit", stmt)
		p.insert(what, stmt)
	})
	p.insert(what, stmt) // behind a transaction that was aborted
	p.wait()
}

func playSlow(p *play) {
	for range 2 {
		p.insert("slow insert", Stmt{Slow: true})
		p.wait()
	}
	p.fails("failing slow insert", Stmt{Slow: true})
	p.wait()
	p.reads("slow read", Stmt{Slow: true})
	p.wait()
	p.insert("slow insert to be retried", Stmt{Slow: true, Retry: true})
	p.wait()
	// One that was found slow keeps the lanes' timeout, in a write of its own form.
	const learned = "insert into swept(id) values ($1) returning 'learned'"
	p.db.shapes.get(learned).slow.Store(true)
	l := p.writes("insert found slow", 1)
	p.begin(l, func(done func(QueryResult)) error {
		return p.db.Query(context.Background(), nil, done, Stmt{SQL: learned}, l.ids[0])
	})
	p.wait()
	w := p.writes("do", 1)
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.Do(context.Background(), nil, done, func(ctx context.Context, c *pgx.Conn) error {
			_, err := c.Exec(ctx, "insert into swept(id) values ($1)", w.ids[0])
			return err
		})
	})
	p.wait()
	gone := p.writes("do that panics", 1)
	p.begin(gone, func(done func(QueryResult)) error {
		return p.db.Do(context.Background(), nil, done, func(ctx context.Context, c *pgx.Conn) error {
			if _, err := c.Exec(ctx, "insert into swept(id) values ($1)", gone.ids[0]); err != nil {
				return err
			}
			panic("on purpose")
		})
	})
	p.wait()
}

func playBlocking(p *play) {
	ctx, b := context.Background(), p.db.Blocking()
	const insert = "insert into swept(id) values ($1)"
	w := p.writes("blocking exec", 1)
	_, err := b.Exec(ctx, insert, w.ids[0])
	p.blocking(w, err)

	w = p.writes("blocking query row", 1)
	var id int64
	err = b.QueryRow(ctx, insert+" returning id", w.ids[0]).Scan(&id)
	p.blocking(w, err)
	if err == nil && id != w.ids[0] {
		p.bad("QueryRow: got %d, want %d", id, w.ids[0])
	}

	w = p.writes("blocking query", 1)
	_, err = b.Query(ctx, insert+" returning id", w.ids[0])
	p.blocking(w, err)

	w = p.writes("blocking batch", 2)
	_, err = b.SendBatch(ctx, insertsOf(w, nil), TxOptions{})
	p.blocking(w, err)

	w = p.writes("blocking tx", 2)
	p.blocking(w, b.BeginTxFunc(ctx, TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		return writeAll(ctx, tx, w)
	}))

	w = p.writes("blocking copy", 3)
	n, err := b.CopyFrom(ctx, pgx.Identifier{"swept"}, []string{"id"}, rowsOfNote(w))
	p.blocking(w, err)
	if err == nil && n != 3 {
		p.bad("CopyFrom: got %d rows, want 3", n)
	}

	var out strings.Builder
	_, err = b.CopyTo(ctx, &out, copySeed)
	p.blocking(p.writes("blocking copy to", 0), err)
	if err == nil {
		p.checkCopy(out.String())
	}
}

// insertsOf inserts w's rows; more is a last statement.
func insertsOf(w *note, more *string) *pgx.Batch {
	b := &pgx.Batch{}
	for _, id := range w.ids {
		b.Queue("insert into swept(id) values ($1)", id)
	}
	if more != nil {
		b.Queue(*more)
	}
	return b
}

func writeAll(ctx context.Context, tx pgx.Tx, w *note) error {
	for _, id := range w.ids {
		if _, err := tx.Exec(ctx, "insert into swept(id) values ($1)", id); err != nil {
			return err
		}
	}
	return nil
}

func rowsOfNote(w *note) pgx.CopyFromSource {
	return pgx.CopyFromSlice(len(w.ids), func(i int) ([]any, error) { return []any{w.ids[i]}, nil })
}

func playBatch(p *play) {
	failing := "select 1/0 from seed"
	for _, more := range []*string{nil, &failing, nil} {
		w := p.writes("batch", 3)
		p.begin(w, func(done func(QueryResult)) error {
			return p.db.SendBatch(context.Background(), nil, func(r BatchResult) { done(r.QueryResult) },
				insertsOf(w, more), TxOptions{})
		})
		p.wait()
	}
	w := p.writes("batch, statement by statement", 2)
	p.begin(w, func(done func(QueryResult)) error {
		b := &pgx.Batch{}
		b.Queue("drop table if exists none_of_this_name")
		b.QueuedQueries = append(b.QueuedQueries, insertsOf(w, nil).QueuedQueries...)
		return p.db.SendBatch(context.Background(), nil, func(r BatchResult) { done(r.QueryResult) }, b, TxOptions{})
	})
	p.wait()
}

// tx begins a transaction that writes n rows and then does more.
func (p *play) tx(what string, n int, opts TxOptions, more func(context.Context, pgx.Tx, *note) error) *note {
	w := p.writes(what, n)
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.BeginTxFunc(context.Background(), nil, done, opts, func(ctx context.Context, tx pgx.Tx) error {
			if err := writeAll(ctx, tx, w); err != nil {
				return err
			}
			return more(ctx, tx, w)
		})
	})
	p.wait()
	return w
}

var errOnPurpose = errors.New("on purpose")

func playTx(p *play) {
	p.tx("tx", 2, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		var n int
		if err := tx.QueryRow(ctx, "select count(*) from seed").Scan(&n); err != nil || n == seedRows {
			return err
		}
		return fmt.Errorf("%d rows", n)
	})
	p.tx("tx whose function fails", 2, TxOptions{}, func(context.Context, pgx.Tx, *note) error { return errOnPurpose })
	p.tx("tx whose statement fails", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		_, err := tx.Exec(ctx, "select 1/0")
		return err
	})
	// Its error is not heeded: the commit is a rollback.
	p.tx("tx that goes on after an error", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		_, _ = tx.Exec(ctx, "select 1/0")
		return nil
	})
	p.last++
	never := p.last
	p.tx("tx with a savepoint", 2, TxOptions{}, func(ctx context.Context, tx pgx.Tx, w *note) error {
		w.never = never
		sub, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := sub.Exec(ctx, "insert into swept(id) values ($1)", never); err != nil {
			return err
		}
		return sub.Rollback(ctx)
	})
	p.tx("tx with a deferred constraint", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, w *note) error {
		_, err := tx.Exec(ctx, "insert into deferred values ($1), ($1)", w.ids[0])
		return err
	})
}

// playOwnTx: functions that end their transaction by themselves.
func playOwnTx(p *play) {
	p.tx("tx that commits", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error { return tx.Commit(ctx) })
	p.tx("tx that commits, then fails", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		_ = tx.Commit(ctx)
		return errOnPurpose
	})
	p.tx("tx that commits, then panics", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		_ = tx.Commit(ctx)
		panic("on purpose")
	})
	p.tx("tx that rolls back", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error { return tx.Rollback(ctx) })
	p.tx("tx that commits by a text", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		_, err := tx.Exec(ctx, "commit")
		return err
	})
	p.tx("tx that commits by a text of its connection", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		_, err := tx.Conn().Exec(ctx, "/* */ end")
		return err
	})
	p.tx("tx that commits and begins another", 1, TxOptions{}, func(ctx context.Context, tx pgx.Tx, _ *note) error {
		if _, err := tx.Exec(ctx, "commit and chain"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "select n from seed limit 1")
		return err
	})
}

// playRetriedTx: the first run of each is undone by the server for another's update.
func playRetriedTx(p *play) {
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		tries := 0
		p.tx("tx "+string(level), 1, TxOptions{TxOptions: pgx.TxOptions{IsoLevel: level}, MaxRetries: 3},
			func(ctx context.Context, tx pgx.Tx, w *note) error {
				tries++
				var v int
				if err := tx.QueryRow(ctx, "select v from counted where k = $1", p.base).Scan(&v); err != nil {
					return err
				}
				if tries == 1 {
					ctx, cancel := context.WithTimeout(ctx, time.Minute)
					defer cancel()
					if _, err := p.direct.Exec(ctx, "update counted set v = v + 1 where k = $1", p.base); err != nil {
						return err
					}
				}
				_, err := tx.Exec(ctx, "update counted set v = $2 where k = $1", p.base, v+1)
				return err
			})
	}
}

const copySeed = "copy (select n from seed order by n) to stdout"

func (p *play) checkCopy(text string) {
	var want strings.Builder
	for i := range seedRows {
		fmt.Fprintln(&want, i+1)
	}
	if text != want.String() {
		p.bad("COPY TO: told OK with %d bytes, want %d", len(text), want.Len())
	}
}

func playCopy(p *play) {
	ctx := context.Background()
	w := p.writes("copy from", 20)
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.CopyFrom(ctx, nil, done, pgx.Identifier{"swept"}, []string{"id"}, rowsOfNote(w))
	})
	p.wait()
	text := func(w *note) (s string) {
		for _, id := range w.ids {
			s += fmt.Sprintln(id)
		}
		return s
	}
	for _, bad := range []string{"", "no number\n"} {
		w := p.writes("copy from reader", 20)
		p.begin(w, func(done func(QueryResult)) error {
			return p.db.CopyFromReader(ctx, nil, done, strings.NewReader(text(w)+bad), "copy swept(id) from stdin")
		})
		p.wait()
	}
	var out strings.Builder
	to := p.writes("copy to", 0)
	p.begin(to, func(done func(QueryResult)) error { return p.db.CopyTo(ctx, nil, done, &out, copySeed) })
	p.wait()
	if to.outcome == OK {
		p.checkCopy(out.String())
	}
}

func playStream(p *play) {
	ctx := context.Background()
	rows := 0
	read := p.writes("stream", 0)
	p.begin(read, func(done func(QueryResult)) error {
		return p.db.Stream(ctx, nil, done, func(r QueryResult) error { rows += r.Len(); return nil },
			Stmt{SQL: "select n from seed"})
	})
	p.wait()
	if read.outcome == OK && rows != seedRows {
		p.bad("Stream: told OK with %d rows, want %d", rows, seedRows)
	}
	for _, err := range []error{nil, errOnPurpose} {
		w := p.writes("stream that writes", 3)
		p.begin(w, func(done func(QueryResult)) error {
			return p.db.Stream(ctx, nil, done, func(QueryResult) error { return err },
				Stmt{SQL: "insert into swept(id) select g from generate_series($1::bigint, $2) g returning id"}, w.ids[0], w.ids[2])
		})
		p.wait()
	}
}
