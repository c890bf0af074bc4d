package services

import (
	"fmt"
	"log/slog"
	"time"

	"millrace/engine"
)

// Database is what the manager and the controller know of a database, so that programs
// without one link none. *dbasync.DB is one; events.DB gives it back as what it is.
type Database interface {
	Service
	// Connected says whether it can be asked now.
	Connected() bool
}

// MakeDatabase makes a database that completes on pool, and the durable events that it
// keeps (nil: none), and starts neither. events.Database returns one.
type MakeDatabase func(pool *engine.Pool, logger *slog.Logger) (Database, DurableEvents, error)

// DurableEvents keeps delay events that survive the process and runs those that are due.
// Package services/events has the one on PostgreSQL.
type DurableEvents interface {
	Service
	// Bind gives it what runs an event, on any goroutine that may block, before Start.
	Bind(run func(DurableEvent))
	// Store keeps an event and tells done, which may be nil, on on; stored is false when
	// an event of that key is pending already. body must not change until then. After
	// an error done is not called.
	Store(on Submitter, key string, handle uint32, body []byte, delay time.Duration, done func(stored bool, err error)) error
	// Cancel removes an event that is not being run, and tells done, as Store does.
	Cancel(on Submitter, key string, done func(removed bool, err error)) error
}

// DurableEvent is one that is due.
type DurableEvent struct {
	Key    string
	Handle uint32
	Body   []byte
	Late   time.Duration
	Ended  func(error) // to be called when it has run; the first call counts
}

// Durable has the event survive the process; it is of no session. done, which
// may be nil, is called when the database has it, in the order of the context's
// session if that has one: stored is false when an event of that key is pending
// already. Without a database After fails (unavailable).
func Durable(key string, done func(stored bool, err error)) AfterOption {
	return func(o *afterOptions) { o.durable, o.key, o.stored = true, key, done }
}

// afterDurable is After for a durable event.
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

// fireDurable runs a claimed event. On the pool.
func (c *Controller) fireDurable(e DurableEvent) {
	sv := c.lookup(e.Handle)
	if sv == nil {
		e.Ended(fmt.Errorf("%w: %s", ErrUnknownHandle, handleText(e.Handle)))
		return
	}
	sv.fireBytes(fireContext{late: e.Late, key: e.Key, ended: e.Ended}, e.Body)
}
