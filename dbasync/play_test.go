package dbasync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// note is what a caller was told of rows that it wrote in one transaction.
type note struct {
	what  string
	ids   []int64
	again bool  // it may run more than once (Stmt.Retry)
	never int64 // a row that must not be there whatever is told; 0: none

	ends    int // completions; guarded by play.mu until the play is over
	outcome Outcome
	err     error
}

// play is one run of an exchange: a DB, the rows that it writes into table swept, whose
// ids are its own, and what it was told of them.
type play struct {
	db     *DB
	direct *pgxpool.Pool // past every proxy and pooler
	base   int64
	last   int64 // the last id given away; used by the play's goroutine only

	wg    sync.WaitGroup
	mu    sync.Mutex
	notes []*note  // guarded by mu
	wrong []string // wrong beside what was told of rows; guarded by mu
}

// maxRows is how many ids a play has.
const maxRows = 1000

// writes makes a note of n rows to be written.
func (p *play) writes(what string, n int) *note {
	w := &note{what: what}
	for range n {
		p.last++
		w.ids = append(w.ids, p.last)
	}
	p.mu.Lock()
	p.notes = append(p.notes, w)
	p.mu.Unlock()
	return w
}

// told notes an outcome.
func (p *play) told(w *note, o Outcome, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.ends++
	w.outcome, w.err = o, err
}

// begin makes a call that ends w.
func (p *play) begin(w *note, call func(done func(QueryResult)) error) {
	p.wg.Add(1)
	err := call(func(r QueryResult) {
		p.told(w, r.Outcome, r.Err)
		p.wg.Done()
	})
	if err != nil {
		p.told(w, NotRun, err)
		p.wg.Done()
	}
}

// blocking notes what a method of Blocking has returned.
func (p *play) blocking(w *note, err error) {
	var out *OutcomeError
	switch {
	case err == nil:
		p.told(w, OK, nil)
	case errors.As(err, &out):
		p.told(w, out.Outcome, err)
	default:
		p.told(w, SQLError, err)
	}
}

func (p *play) bad(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

// wait returns when all that has begun has ended.
func (p *play) wait() {
	ended := make(chan struct{})
	go func() { p.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		panic("dbasync: a query has had no completion for a minute")
	}
}

// insert begins to write a row with stmt's way of travelling.
func (p *play) insert(what string, stmt Stmt) *note {
	w := p.writes(what, 1)
	w.again = stmt.Retry
	stmt.SQL = "insert into swept(id) values ($1)"
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.Exec(context.Background(), nil, done, stmt, w.ids[0])
	})
	return w
}

// fails begins a statement that writes a row, and then fails, so that no row is left.
func (p *play) fails(what string, stmt Stmt) {
	w := p.writes(what, 1)
	stmt.SQL = "insert into swept(id) select $1::bigint / g from generate_series(1, 0, -1) g"
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.Exec(context.Background(), nil, done, stmt, w.ids[0])
	})
}

// failsLate begins a statement that fails when it commits.
func (p *play) failsLate(what string, stmt Stmt) {
	w := p.writes(what, 1)
	stmt.SQL = "with d as (insert into deferred values ($1), ($1)) insert into swept(id) values ($1)"
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.Exec(context.Background(), nil, done, stmt, w.ids[0])
	})
}

// answersLong begins to write a row; what it returns is longer than the server's buffer, so
// that its answer comes before that of its commit.
func (p *play) answersLong(what string, stmt Stmt) {
	w := p.writes(what, 1)
	w.again = stmt.Retry
	stmt.SQL = "insert into swept(id) values ($1) returning repeat('x', 20000)"
	p.begin(w, func(done func(QueryResult)) error {
		return p.db.Query(context.Background(), nil, done, stmt, w.ids[0])
	})
}

// reads begins a query for the numbers 1 to seedRows and checks what it gives.
func (p *play) reads(what string, stmt Stmt) {
	stmt.SQL = "select n from seed order by n"
	p.begin(p.writes(what, 0), func(done func(QueryResult)) error {
		return p.db.Query(context.Background(), nil, func(r QueryResult) {
			p.checkSeed(what, r)
			done(r)
		}, stmt)
	})
}

// seedRows is how many rows table seed has: n from 1 on.
const seedRows = 12

func (p *play) checkSeed(what string, r QueryResult) {
	if r.Outcome != OK {
		return
	}
	rows, want := r.Rows(), int64(0)
	for rows.Next() {
		var n int64
		want++
		if err := rows.Scan(&n); err != nil || n != want {
			p.bad("%s: row %d: got %d, %v", what, want, n, err)
			return
		}
	}
	if want != seedRows || rows.Err() != nil {
		p.bad("%s: told OK with %d rows, %v, want %d", what, want, rows.Err(), seedRows)
	}
}

// tally is what callers were told in a number of plays.
type tally struct {
	told  [4]int
	wrong []string
}

// compare holds what p was told against the rows: how often each id is there, and all ids
// in the order in which they were written.
func (c *tally) compare(p *play, present map[int64]int, order []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.wrong = append(c.wrong, p.wrong...)
	for _, w := range p.notes {
		if w.ends != 1 {
			c.wrong = append(c.wrong, fmt.Sprintf("%s: %d completions", w.what, w.ends))
			continue
		}
		c.told[w.outcome]++
		if why := w.compare(present); why != "" {
			c.wrong = append(c.wrong, fmt.Sprintf("%s: told %v (%v), %s", w.what, w.outcome, w.err, why))
		}
	}
	if keyed := p.keyed(order); !slices.IsSorted(keyed) {
		c.wrong = append(c.wrong, fmt.Sprintf("one key's rows out of order: %v", keyed))
	}
}

func (w *note) compare(present map[int64]int) string {
	there, doubled := 0, 0
	for _, id := range w.ids {
		if present[id] > 0 {
			there++
		}
		if present[id] > 1 {
			doubled++
		}
	}
	switch {
	case doubled > 0 && !w.again:
		return fmt.Sprintf("%d rows doubled", doubled)
	case there != 0 && there != len(w.ids):
		return fmt.Sprintf("%d of %d rows are there", there, len(w.ids))
	case w.outcome == OK && there < len(w.ids):
		return "lost"
	case (w.outcome == NotRun || w.outcome == SQLError) && there > 0:
		return "it ran"
	case w.never != 0 && present[w.never] > 0:
		return "a row that was rolled back is there"
	}
	return ""
}

// keyed filters the ids of what was written with an ordering key. Caller holds mu.
func (p *play) keyed(order []int64) (ids []int64) {
	key := make(map[int64]bool)
	for _, w := range p.notes {
		// One that was lost may run when those behind it have, on its old connection.
		if strings.HasPrefix(w.what, keyedInsert) && w.outcome == OK {
			key[w.ids[0]] = true
		}
	}
	for _, id := range order {
		if key[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

const keyedInsert = "keyed insert"
