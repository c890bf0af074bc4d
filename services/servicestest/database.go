package servicestest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"millrace/engine"
	"millrace/engine/enginetest"
	"millrace/services"
)

// DB makes a manager use a simulated database, which also stores its durable delay events: they are
// rows, and the simulation decides the outcome of statements on them. A program's own statements
// use the database's Do, with a Context's Submitter.
func DB(db *enginetest.Database) services.MakeDatabase {
	return func(*engine.Pool, *slog.Logger) (services.Database, services.DurableEvents, error) {
		e := &events{db: db, rows: map[string]*row{}}
		return &database{events: e}, e, nil
	}
}

// retryAfter is the time after which a failed event runs again, until it succeeds.
const retryAfter = time.Second

// running is a Service that does nothing by itself.
type running struct {
	mu sync.Mutex
	on bool // guarded by mu
}

func (r *running) set(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on = on
}

func (r *running) Start(context.Context) error { r.set(true); return nil }
func (r *running) Stop(context.Context) error  { r.set(false); return nil }
func (r *running) Running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.on
}

// database is the simulated database as a manager sees it.
type database struct {
	running
	events *events
}

func (d *database) Connected() bool { return d.Running() }

// events stores durable events as rows.
type events struct {
	running
	db  *enginetest.Database
	run func(services.DurableEvent)

	mu   sync.Mutex
	rows map[string]*row // guarded by mu
}

type row struct {
	handle uint32
	body   []byte
	due    time.Time
}

func (e *events) Bind(run func(services.DurableEvent)) { e.run = run }

// Store inserts a row.
func (e *events) Store(on services.Submitter, key string, handle uint32, body []byte, delay time.Duration, done func(bool, error)) error {
	stored := false
	e.do(on, func() {
		if stored = e.rows[key] == nil; !stored {
			return
		}
		e.rows[key] = &row{handle, body, time.Now().Add(delay)}
		e.db.World().After(delay, func() { e.fire(key) })
	}, func(err error) {
		if done != nil {
			done(stored && err == nil, err)
		}
	})
	return nil
}

// Cancel deletes the row.
func (e *events) Cancel(on services.Submitter, key string, done func(bool, error)) error {
	removed := false
	e.do(on, func() {
		removed = e.rows[key] != nil
		delete(e.rows, key)
	}, func(err error) {
		if done != nil {
			done(removed && err == nil, err)
		}
	})
	return nil
}

// do runs a statement, and then done if it is not nil.
func (e *events) do(on services.Submitter, run func(), done func(error)) {
	if on == nil {
		on = here{}
	}
	e.db.Do(on, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		run()
		return nil
	}, done, nil)
}

// here runs functions at once.
type here struct{}

func (here) Submit(fn func()) error { fn(); return nil }

var errNotStarted = errors.New("servicestest: the events are not running")

// fire runs a due event.
func (e *events) fire(key string) {
	e.mu.Lock()
	r := e.rows[key]
	e.mu.Unlock()
	if r == nil || time.Now().Before(r.due) {
		return // removed, or replaced by one with the same key
	}
	ended := func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if err == nil && e.rows[key] == r {
			delete(e.rows, key)
		}
	}
	var once sync.Once
	end := func(err error) {
		once.Do(func() {
			if ended(err); err != nil && e.Running() {
				e.db.World().After(retryAfter, func() { e.fire(key) })
			}
		})
	}
	if !e.Running() {
		end(errNotStarted)
		return
	}
	e.run(services.DurableEvent{Key: key, Handle: r.handle, Body: r.body, Late: time.Since(r.due), Ended: end})
}
