package enginetest

import (
	"errors"
	"sync"
	"time"
)

// Errors of a Database.
var (
	ErrNotRun     = errors.New("enginetest: the statement has not run")
	ErrMayHaveRun = errors.New("enginetest: the connection was lost: the statement may have run")
)

// Submitter is where an answer goes: an engine.Session, Strand or Pool.
type Submitter interface{ Submit(func()) error }

// Outcome is what becomes of a statement.
type Outcome uint8

const (
	Ran        Outcome = iota // it runs, and its caller hears what has come of it
	NotRun                    // it does not: ErrNotRun
	LostBefore                // the connection is lost before it has run: ErrMayHaveRun
	LostAfter                 // and after: ErrMayHaveRun
)

// Database stands for one: its statements are functions, which run later, one after the
// other, and whose outcome is told later still. What the world decides by chance is what a
// real one does to its callers: an answer is late, a statement fails, or the connection is
// lost before it has run or after. Any goroutine may use it.
type Database struct {
	w *World

	From, To time.Duration // how long an answer takes; 1 ms to 50 ms
	NotRun   int           // one in so many does not run, and its caller is told so; 0: none
	Lost     int           // of one in so many the caller is told ErrMayHaveRun; 0: none

	mu     sync.Mutex
	script []Outcome // guarded by mu
	down   bool      // guarded by mu
}

// Database makes one.
func (w *World) Database() *Database {
	return &Database{w: w, From: time.Millisecond, To: 50 * time.Millisecond}
}

// World is the one whose it is.
func (d *Database) World() *World { return d.w }

// Script says what becomes of the next statements, in the order in which they come to their
// turn; chance decides about those behind them.
func (d *Database) Script(list ...Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script = append(d.script, list...)
}

// Down has every statement that comes to its turn not run, as those of a database that can't
// be reached, or ends that.
func (d *Database) Down(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

// outcome is that of the next statement.
func (d *Database) outcome() (o Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.down:
		return NotRun
	case len(d.script) > 0:
		o, d.script = d.script[0], d.script[1:]
		return o
	case d.NotRun > 0 && d.w.Chance(d.NotRun):
		return NotRun
	case d.Lost > 0 && d.w.Chance(d.Lost):
		return LostBefore + Outcome(d.w.Pick(2))
	}
	return Ran
}

// Do has run called later, unless the world decides that it does not run, and then done on
// the submitter, once, with run's error or why it is not known. Where on refuses it, which
// is what a session does that has closed, otherwise is called in its place, which may be nil.
func (d *Database) Do(on Submitter, run func() error, done func(error), otherwise func(error)) {
	d.later(func() {
		err := ErrMayHaveRun
		switch d.outcome() {
		case Ran:
			err = run()
		case NotRun:
			err = ErrNotRun
		case LostAfter:
			_ = run() // and nobody hears of it
		}
		d.later(func() {
			if on.Submit(func() { done(err) }) != nil && otherwise != nil {
				otherwise(err)
			}
		})
	})
}

func (d *Database) later(fn func()) { d.w.After(d.w.Between(d.From, d.To)/2, fn) }
