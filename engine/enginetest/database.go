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

// Submitter receives answers: an engine.Session, Strand or Pool.
type Submitter interface{ Submit(func()) error }

// Outcome is the outcome of a statement.
type Outcome uint8

const (
	Ran        Outcome = iota // it runs, and its caller gets the result
	NotRun                    // it does not: ErrNotRun
	LostBefore                // the connection is lost before it runs: ErrMayHaveRun
	LostAfter                 // the connection is lost after it ran: ErrMayHaveRun
)

// Database simulates a database: its statements are functions, which run later, one after another,
// and their callers get the outcome later still. At random, as with a real one, an answer is late,
// a statement fails, or the connection is lost before or after it runs. Its methods may be called
// from any goroutine.
type Database struct {
	w *World

	From, To time.Duration // how long an answer takes; 1 ms to 50 ms
	NotRun   int           // one statement in so many does not run, and its caller gets ErrNotRun; 0: none
	Lost     int           // for one in so many the caller gets ErrMayHaveRun; 0: none

	mu     sync.Mutex
	script []Outcome // guarded by mu
	down   bool      // guarded by mu
}

// Database makes a database.
func (w *World) Database() *Database {
	return &Database{w: w, From: time.Millisecond, To: 50 * time.Millisecond}
}

// World returns the simulation it belongs to.
func (d *Database) World() *World { return d.w }

// Script sets the outcomes of the next statements, in the order in which they would run; later ones
// are random.
func (d *Database) Script(list ...Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script = append(d.script, list...)
}

// Down makes every statement fail with ErrNotRun, as if the database could not be reached, or ends
// that.
func (d *Database) Down(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

// outcome returns the outcome of the next statement.
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

// Do calls run later, unless the simulation decides that it does not run, and then done on the
// submitter, once, with run's error or ErrNotRun or ErrMayHaveRun. If on refuses it, as a closed
// session does, otherwise is called instead; it may be nil.
func (d *Database) Do(on Submitter, run func() error, done func(error), otherwise func(error)) {
	d.later(func() {
		err := ErrMayHaveRun
		switch d.outcome() {
		case Ran:
			err = run()
		case NotRun:
			err = ErrNotRun
		case LostAfter:
			_ = run() // and nobody gets the result
		}
		d.later(func() {
			if on.Submit(func() { done(err) }) != nil && otherwise != nil {
				otherwise(err)
			}
		})
	})
}

func (d *Database) later(fn func()) { d.w.After(d.w.Between(d.From, d.To)/2, fn) }
