package enginetest

import (
	"errors"
	"time"
)

// Errors of a Database.
var (
	ErrNotRun     = errors.New("enginetest: the statement has not run")
	ErrMayHaveRun = errors.New("enginetest: the connection was lost: the statement may have run")
)

// Submitter is where an answer goes: an engine.Session, Strand or Pool.
type Submitter interface{ Submit(func()) error }

// Database stands for one: its statements are functions, which run later, one after the
// other, and whose outcome is told later still. What the world decides by chance is what a
// real one does to its callers: an answer is late, a statement fails, or the connection is
// lost before it has run or after. Any goroutine may use it.
type Database struct {
	w *World

	From, To time.Duration // how long an answer takes; 1 ms to 50 ms
	NotRun   int           // one in so many does not run, and its caller is told so; 0: none
	Lost     int           // of one in so many the caller is told ErrMayHaveRun; 0: none
}

// Database makes one.
func (w *World) Database() *Database {
	return &Database{w: w, From: time.Millisecond, To: 50 * time.Millisecond}
}

// Do has run called later, unless the world decides that it does not run, and then done on
// the submitter, once, with run's error or why it is not known. Where on refuses it, which
// is what a session does that has closed, else is called in its place, which may be nil.
func (d *Database) Do(on Submitter, run func() error, done func(error), otherwise func(error)) {
	w := d.w
	d.later(func() {
		var err error
		switch {
		case d.NotRun > 0 && w.Chance(d.NotRun):
			err = ErrNotRun
		case d.Lost > 0 && w.Chance(d.Lost):
			if w.Chance(2) {
				_ = run() // and nobody hears of it
			}
			err = ErrMayHaveRun
		default:
			err = run()
		}
		d.later(func() {
			if on.Submit(func() { done(err) }) != nil && otherwise != nil {
				otherwise(err)
			}
		})
	})
}

func (d *Database) later(fn func()) { d.w.After(d.w.Between(d.From, d.To)/2, fn) }
