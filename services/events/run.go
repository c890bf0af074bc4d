package events

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"millrace/dbasync"
	"millrace/services"
)

// begin runs a claimed event on the pool.
func (d *Service) begin(e event) {
	e.hold = d.hold(e)
	d.running.Add(1)
	var once sync.Once
	ended := e
	e.ended = func(err error) { once.Do(func() { d.end(ended, err) }) }
	if e.bad != nil {
		e.ended(e.bad)
		return
	}
	services.Deliver(d.cfg.Pool, func() {
		returned := false
		defer func() {
			if !returned { // it panicked; the pool logs that
				e.ended(errors.New("events: the service panicked"))
			}
		}()
		if e.body == nil { // too long to come with the others
			if err := d.fetch(&e); err != nil {
				e.ended(err)
				returned = true
				return
			}
		}
		d.run(services.DurableEvent{Key: e.key, Handle: e.handle, Body: e.body, Late: e.late, Ended: e.ended})
		returned = true
	}, func() { e.ended(errors.New("events: the pool has stopped")) })
}

// end records the result of the event in the database. If that fails, the event runs again after
// the lease.
func (d *Service) end(e event, err error) {
	sql, args := endEvent, []any{e.key, int64(e.attempt), e.created}
	if !d.ending(e) {
		d.over(e, false) // the row is gone; there may be another with its key by now
		return
	}
	last := err != nil && e.attempt >= d.cfg.MaxAttempts
	switch {
	case last:
		d.failed.Add(1)
		d.cfg.Logger.Error("events: durable event given up", "key", e.key, "handle", e.handleText(), "attempts", e.attempt, "err", err)
		sql, args = giveUpEvent, append(args, strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "?"))
	case err != nil:
		d.failed.Add(1)
		pause := min(d.cfg.Retry<<min(e.attempt-1, 20), time.Hour)
		sql, args = retryEvent, append(args, pause.Microseconds())
		d.look(pause)
	default:
		d.ran.Add(1)
	}
	done := func(r dbasync.QueryResult) {
		if r.Err != nil {
			d.cfg.Logger.Warn("events: durable event runs again", "key", e.key, "err", r.Err)
		} else if last && r.RowsAffected() == 1 {
			d.givenUp.Add(1)
		}
		d.over(e, r.Err == nil && r.RowsAffected() == 0)
	}
	if err := d.cfg.DB.Exec(context.Background(), nil, done, dbasync.Stmt{SQL: sql}, args...); err != nil {
		d.cfg.Logger.Warn("events: durable event runs again", "key", e.key, "err", err)
		d.over(e, false)
	}
}

// over removes the event from the running ones; lost: its row was no longer ours.
func (d *Service) over(e event, lost bool) {
	d.forget(e, lost)
	d.running.Add(-1)
	select {
	case d.idle <- struct{}{}:
	default:
	}
}
