package services

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/dbasync"
	"millrace/dbasync/migrate"
	"millrace/engine"
)

// DurableEvents are delay events that survive the process: they stand in a
// table until a service has run them without an error. Any process with the
// service on the same database runs them; rows are claimed with SKIP LOCKED.
//
// Each runs at least once: again, with the same Context.Key, when its process
// dies or stands still for longer than the lease, when it fails, or can't tell the
// database that it is done. While the lease holds there is one copy in all
// processes, and never more than one in a process. Time is the database's clock; none is early by it.
type DurableEvents struct {
	cfg DurableConfig
	run func(e durableEvent) // the controller's; set before Start

	mu      sync.Mutex
	cancel  context.CancelFunc // nil while stopped
	release context.CancelFunc // ends the renewal of leases
	stopped chan struct{}
	renewed chan struct{} // closed when that has ended
	poke    chan struct{}
	running atomic.Int64
	idle    chan struct{} // has room for one word: an event has ended

	ready atomic.Bool // the table is there

	holding sync.Mutex
	held    map[string]*hold // guarded by holding: by key, what was begun here and has not ended

	stored, ran, failed, givenUp, lost, overdue atomic.Uint64
}

// durableEvent is a claimed row.
type durableEvent struct {
	key     string
	handle  uint32
	body    []byte
	late    time.Duration
	attempt int
	created time.Time   // tells it from a later event of its key
	hold    *hold       // set by begin
	bad     error       // why it can't run
	ended   func(error) // once
}

var _ Service = (*DurableEvents)(nil)

// NewDurableEvents checks the settings; it starts nothing.
func NewDurableEvents(cfg DurableConfig) (*DurableEvents, error) {
	if cfg.DB == nil || cfg.Pool == nil {
		return nil, errors.New("services: durable events without a database or a pool")
	}
	if cfg.Poll < 0 || cfg.Lease < 0 || cfg.Retry < 0 || cfg.MaxRun < 0 || cfg.MaxAttempts < 0 || cfg.MaxRunning < 0 {
		return nil, errors.New("services: a setting of durable events is negative")
	}
	return &DurableEvents{cfg: cfg.withDefaults(), poke: make(chan struct{}, 1), idle: make(chan struct{}, 1), held: map[string]*hold{}}, nil
}

// EventsSchema holds the migrations of the table, for programs that bring all
// their tables up to date at one place (dbasync/migrate).
//
//go:embed sql/*.sql
var EventsSchema embed.FS

// Start brings the table up to date and begins to look for what is due. When the
// database is not there yet, that is done as soon as it is; Healthy tells. An error is
// a table that this program can't work with.
func (d *DurableEvents) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.run == nil:
		return errors.New("services: durable events belong to no controller")
	case d.cancel != nil:
		return nil
	}
	first, done := context.WithTimeout(ctx, firstTry)
	err := d.prepare(first)
	done()
	if errors.Is(err, migrate.ErrChanged) || errors.Is(err, migrate.ErrNewer) {
		return err
	}
	if err != nil {
		d.cfg.Logger.Warn("services: durable events wait for the database", "err", err)
	}
	run, cancel := context.WithCancel(context.Background())
	renewing, release := context.WithCancel(context.Background())
	d.cancel, d.release, d.stopped, d.renewed = cancel, release, make(chan struct{}), make(chan struct{})
	stopped, renewed := d.stopped, d.renewed
	go func() {
		defer close(stopped)
		d.loop(run)
	}()
	go func() {
		defer close(renewed)
		d.renewAll(renewing)
	}()
	return nil
}

// firstTry bounds what Start waits for the database.
const firstTry = 2 * time.Second

// prepare brings the table up to date.
func (d *DurableEvents) prepare(ctx context.Context) error {
	if d.cfg.URL != "" && !d.ready.Load() {
		if _, err := migrate.Run(ctx, d.cfg.URL, "events", EventsSchema); err != nil {
			return fmt.Errorf("services: durable events: %w", err)
		}
	}
	d.ready.Store(true)
	return nil
}

// Healthy says that the table is there.
func (d *DurableEvents) Healthy() error {
	if !d.ready.Load() {
		return errors.New("services: durable events wait for the database")
	}
	return nil
}

// Running says whether due events are run.
func (d *DurableEvents) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel != nil
}

// Stop takes no further events and waits for those that run, while ctx lasts.
func (d *DurableEvents) Stop(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel == nil {
		return nil
	}
	d.cancel()
	d.cancel = nil
	<-d.stopped
	defer func() {
		d.release()
		<-d.renewed
	}()
	for d.running.Load() > 0 {
		select {
		case <-d.idle:
		case <-ctx.Done():
			return fmt.Errorf("services: %d durable events still run: %w", d.running.Load(), ctx.Err())
		}
	}
	return nil
}

// DurableStats counts events of this process.
type DurableStats struct {
	Stored, Ran, Failed uint64
	GivenUp             uint64 // moved to millrace_events_given_up
	Lost                uint64 // another process took them, or Cancel, while they ran here
	Overdue             uint64 // ran for longer than MaxRun
	Running             int64
}

// Stats returns the counters.
func (d *DurableEvents) Stats() DurableStats {
	return DurableStats{
		Stored: d.stored.Load(), Ran: d.ran.Load(), Failed: d.failed.Load(), GivenUp: d.givenUp.Load(),
		Lost: d.lost.Load(), Overdue: d.overdue.Load(), Running: d.running.Load(),
	}
}

// store puts an event into the table and tells done, on on.
func (d *DurableEvents) store(on Submitter, key string, handle uint32, body []byte, delay time.Duration, done func(bool, error)) error {
	if body == nil {
		body = []byte{}
	}
	return d.cfg.DB.Query(context.Background(), on, func(r dbasync.QueryResult) {
		stored := r.Err == nil && r.RowsAffected() == 1
		if stored {
			d.stored.Add(1)
			d.look(delay)
		}
		if done != nil && !r.Stale {
			done(stored, r.Err)
		}
	}, dbasync.Stmt{SQL: insertEvent}, key, int64(handle), body, delay.Microseconds()+1)
}

// look has the table looked at in d, if that is before the next poll.
func (d *DurableEvents) look(in time.Duration) {
	wake := func() {
		select {
		case d.poke <- struct{}{}:
		default:
		}
	}
	if in <= 0 {
		wake()
	} else if in < d.cfg.Poll { // the poll finds the others before their time
		time.AfterFunc(in, wake)
	}
}

// loop claims what is due, until ctx ends. Its goroutine is the service's.
func (d *DurableEvents) loop(ctx context.Context) {
	for !d.ready.Load() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(d.cfg.Poll):
			if err := d.prepare(ctx); err != nil && ctx.Err() == nil {
				d.cfg.Logger.Warn("services: durable events wait for the database", "err", err)
			}
		}
	}
	var swept time.Time
	for ctx.Err() == nil {
		if time.Since(swept) >= d.cfg.Poll {
			swept = time.Now()
			d.sweep(ctx)
		}
		wait := d.cfg.Poll
		if free := int64(d.cfg.MaxRunning) - d.running.Load(); free > 0 {
			n, err := d.claim(ctx, free)
			switch {
			case err != nil && ctx.Err() == nil:
				d.cfg.Logger.Warn("services: durable events", "err", err)
			case err == nil && int64(n) == free:
				continue
			case err == nil:
				wait = min(wait, d.next(ctx))
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-d.poke:
		case <-d.idle:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// query runs a statement and waits for it.
func (d *DurableEvents) query(ctx context.Context, sql string, args ...any) (dbasync.QueryResult, error) {
	got := make(chan dbasync.QueryResult, 1)
	if err := d.cfg.DB.Query(ctx, nil, func(r dbasync.QueryResult) { got <- r }, dbasync.Stmt{SQL: sql}, args...); err != nil {
		return dbasync.QueryResult{}, err
	}
	r := <-got
	return r, r.Err
}

func (d *DurableEvents) claim(ctx context.Context, most int64) (int, error) {
	r, err := d.query(ctx, claimEvents, most, d.cfg.Lease.Microseconds(), int64(d.cfg.MaxAttempts), d.heldKeys(true))
	if err != nil {
		return 0, err
	}
	rows := r.Rows()
	defer rows.Close()
	for rows.Next() {
		var e durableEvent
		var handle, late int64
		if err := rows.Scan(&e.key, &handle, &e.created, &e.body, &e.attempt, &late); err != nil {
			d.cfg.Logger.Error("services: a durable event can't be read", "err", err)
			continue // the others are well
		}
		e.handle, e.late = uint32(handle), max(0, time.Duration(late)*time.Microsecond)
		if handle != int64(e.handle) {
			e.bad = fmt.Errorf("services: handle %d is none", handle)
		}
		d.begin(e)
	}
	return r.Len(), rows.Err()
}

// next is the time until the next event is due, at least 1 ms.
func (d *DurableEvents) next(ctx context.Context) time.Duration {
	r, err := d.query(ctx, nextEvent, int64(d.cfg.MaxAttempts), d.heldKeys(true))
	var micros *int64
	if err != nil || r.Scan(&micros) != nil || micros == nil {
		return d.cfg.Poll
	}
	return max(time.Millisecond, time.Duration(*micros)*time.Microsecond)
}

// Cancel removes an event that is not being run, and tells done on on.
func (d *DurableEvents) Cancel(on Submitter, key string, done func(removed bool, err error)) error {
	return d.cfg.DB.Exec(context.Background(), on, func(r dbasync.QueryResult) {
		if done != nil && !r.Stale {
			done(r.Err == nil && r.RowsAffected() == 1, r.Err)
		}
	}, dbasync.Stmt{SQL: cancelEvent}, key)
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
	var on dbasync.Submitter
	if ctx.s != nil {
		on = ctx.s
	}
	if err := d.store(on, o.key, handle, body, delay, o.stored); err != nil {
		return nil, err
	}
	return &Delayed{durable: d, key: o.key}, nil
}

// fireDurable runs a claimed event. On the pool.
func (c *Controller) fireDurable(e durableEvent) {
	sv := c.lookup(e.handle)
	if sv == nil {
		e.ended(fmt.Errorf("%w: %s", ErrUnknownHandle, handleText(e.handle)))
		return
	}
	sv.fireBytes(fireContext{late: e.late, key: e.key, ended: e.ended}, e.body)
}
