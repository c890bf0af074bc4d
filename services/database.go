package services

import (
	"fmt"
	"log/slog"
	"time"

	"millrace/engine"
)

// Database is the part of a database that the manager and the controller use, so that programs
// without a database do not link one. *dbasync.DB implements it; events.DB converts it back.
type Database interface {
	Service
	// Connected reports whether the database is reachable at present.
	Connected() bool
}

// MakeDatabase creates a database whose completions run on pool, and the durable events
// stored in it (nil for none). It starts neither. events.Database returns a MakeDatabase.
type MakeDatabase func(pool *engine.Pool, logger *slog.Logger) (Database, DurableEvents, error)

// DurableEvents stores delay events that survive the process, and runs those that are due. Package
// services/events implements it on PostgreSQL.
type DurableEvents interface {
	Service
	// Bind sets the function that runs an event, on any goroutine that may block. It is called
	// before Start.
	Bind(run func(DurableEvent))
	// Store stores an event and then calls done, which may be nil, on on; stored is false when an
	// event with that key is already pending. body must not change until then. If Store returns an
	// error, done is not called.
	Store(on Submitter, key string, handle uint32, body []byte, delay time.Duration, done func(stored bool, err error)) error
	// Cancel removes an event that is not running, and calls done as Store does.
	Cancel(on Submitter, key string, done func(removed bool, err error)) error
}

// DurableEvent is an event that is due.
type DurableEvent struct {
	Key    string
	Handle uint32
	Body   []byte
	Late   time.Duration
	Ended  func(error) // must be called when the event has run; later calls are ignored
}

// Durable makes the event survive the process; it is bound to no session. done, which may be nil,
// is called when the event is stored, in the order of the context's session if there is one: stored
// is false when an event with that key is already pending. Without a database After fails
// (unavailable).
func Durable(key string, done func(stored bool, err error)) AfterOption {
	return func(o *afterOptions) { o.durable, o.key, o.stored = true, key, done }
}

// afterDurable implements After for a durable event.
func (c *Controller) afterDurable(ctx *Context, o afterOptions, handle uint32, body []byte, delay time.Duration) (*Delayed, error) {
	d := c.cfg.Durable
	if d == nil {
		return nil, Errorf(engine.CodeUnavailable, "no database for durable events")
	}
	var on Submitter
	if ctx.s != nil {
		on = ctx.s
	}
	if err := d.Store(on, o.key, handle, body, delay, o.stored); err != nil {
		return nil, err
	}
	return &Delayed{durable: d, key: o.key}, nil
}

// fireDurable runs a claimed event, on the pool.
func (c *Controller) fireDurable(e DurableEvent) {
	sv := c.lookup(e.Handle)
	if sv == nil {
		e.Ended(fmt.Errorf("%w: %s", ErrUnknownHandle, handleText(e.Handle)))
		return
	}
	sv.fireBytes(fireContext{late: e.Late, key: e.Key, ended: e.Ended}, e.Body)
}
