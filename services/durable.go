package services

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/dbasync"
	"millrace/dbasync/migrate"
	"millrace/engine"
)

// DurableConfig sets durable delay events. Zero fields mean the defaults.
type DurableConfig struct {
	// DB keeps them, in the table millrace_events; required.
	DB *dbasync.DB
	// URL is that of the same database: Start brings the table up to date
	// (EventsSchema). Empty: that is done elsewhere.
	URL string
	// Pool runs them; required.
	Pool Submitter
	// Poll is how often the table is looked at for what other processes have
	// left or put there; default 1 s. Events of this process don't wait for it.
	Poll time.Duration
	// Lease is how long a process may take for an event before others take it
	// for dead and run it again; default 30 s.
	Lease time.Duration
	// Retry is the pause after a failure; it doubles with each, up to an hour.
	// Default 1 s.
	Retry time.Duration
	// MaxAttempts is how often an event is begun; then it stays in the table
	// and is logged. Default 10.
	MaxAttempts int
	// MaxRunning bounds the events that this process runs at one time; default 64.
	MaxRunning int
	// Logger; default slog.Default().
	Logger *slog.Logger
}

func (c DurableConfig) withDefaults() DurableConfig {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Poll, time.Second)
	def(&c.Lease, 30*time.Second)
	def(&c.Retry, time.Second)
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 10
	}
	if c.MaxRunning == 0 {
		c.MaxRunning = 64
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// DurableEvents are delay events that survive the process: they stand in a
// table until a service has run them without an error. Any process with the
// service on the same database runs them; rows are claimed with SKIP LOCKED.
//
// Each runs at least once: again, with the same Context.Key, when its process
// dies, takes longer than the lease, fails, or can't tell the database that it
// is done. Time is the database's clock; none is early by it.
type DurableEvents struct {
	cfg DurableConfig
	run func(e durableEvent) // the controller's; set before Start

	mu      sync.Mutex
	cancel  context.CancelFunc // nil while stopped
	stopped chan struct{}
	poke    chan struct{}
	running atomic.Int64
	idle    chan struct{} // has room for one word: an event has ended

	stored, ran, failed atomic.Uint64
}

// durableEvent is a claimed row.
type durableEvent struct {
	key     string
	handle  uint32
	body    []byte
	late    time.Duration
	attempt int
	ended   func(error) // once
}

var _ Service = (*DurableEvents)(nil)

// NewDurableEvents checks the settings; it starts nothing.
func NewDurableEvents(cfg DurableConfig) (*DurableEvents, error) {
	if cfg.DB == nil || cfg.Pool == nil {
		return nil, errors.New("services: durable events without a database or a pool")
	}
	if cfg.Poll < 0 || cfg.Lease < 0 || cfg.Retry < 0 || cfg.MaxAttempts < 0 || cfg.MaxRunning < 0 {
		return nil, errors.New("services: a setting of durable events is negative")
	}
	return &DurableEvents{cfg: cfg.withDefaults(), poke: make(chan struct{}, 1), idle: make(chan struct{}, 1)}, nil
}

// EventsSchema holds the migrations of the table, for programs that bring all
// their tables up to date at one place (dbasync/migrate).
//
//go:embed sql/*.sql
var EventsSchema embed.FS

// Start brings the table up to date and begins to look for what is due.
func (d *DurableEvents) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.run == nil:
		return errors.New("services: durable events belong to no controller")
	case d.cancel != nil:
		return nil
	}
	if d.cfg.URL != "" {
		if _, err := migrate.Run(ctx, d.cfg.URL, "events", EventsSchema); err != nil {
			return fmt.Errorf("services: durable events: %w", err)
		}
	}
	run, cancel := context.WithCancel(context.Background())
	d.cancel, d.stopped = cancel, make(chan struct{})
	go func() {
		defer close(d.stopped)
		d.loop(run)
	}()
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
	Running             int64
}

// Stats returns the counters.
func (d *DurableEvents) Stats() DurableStats {
	return DurableStats{d.stored.Load(), d.ran.Load(), d.failed.Load(), d.running.Load()}
}

const (
	insertEvent = `insert into millrace_events (key, handle, body, due)
		values ($1, $2, $3, clock_timestamp() + $4 * interval '1 microsecond') on conflict (key) do nothing`
	claimEvents = `update millrace_events set claimed = clock_timestamp() + $2 * interval '1 microsecond', attempts = attempts + 1
		where key in (select key from millrace_events
			where greatest(due, claimed) <= clock_timestamp() and attempts < $3
			order by greatest(due, claimed) limit $1 for update skip locked)
		returning key, handle, body, attempts, (extract(epoch from clock_timestamp() - due) * 1000000)::bigint`
	nextEvent = `select (extract(epoch from min(greatest(due, claimed)) - clock_timestamp()) * 1000000)::bigint
		from millrace_events where attempts < $1`
	endEvent    = `delete from millrace_events where key = $1 and attempts = $2`
	retryEvent  = `update millrace_events set claimed = clock_timestamp() + $3 * interval '1 microsecond' where key = $1 and attempts = $2`
	cancelEvent = `delete from millrace_events where key = $1 and (claimed is null or claimed < clock_timestamp())`
)

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
	for ctx.Err() == nil {
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
	r, err := d.query(ctx, claimEvents, most, d.cfg.Lease.Microseconds(), int64(d.cfg.MaxAttempts))
	if err != nil {
		return 0, err
	}
	rows := r.Rows()
	defer rows.Close()
	for rows.Next() {
		var e durableEvent
		var handle, late int64
		if err := rows.Scan(&e.key, &handle, &e.body, &e.attempt, &late); err != nil {
			return 0, err
		}
		e.handle, e.late = uint32(handle), max(0, time.Duration(late)*time.Microsecond)
		d.begin(e)
	}
	return r.Len(), rows.Err()
}

// next is the time until the next event is due, at least 1 ms.
func (d *DurableEvents) next(ctx context.Context) time.Duration {
	r, err := d.query(ctx, nextEvent, int64(d.cfg.MaxAttempts))
	var micros *int64
	if err != nil || r.Scan(&micros) != nil || micros == nil {
		return d.cfg.Poll
	}
	return max(time.Millisecond, time.Duration(*micros)*time.Microsecond)
}

// begin runs a claimed event on the pool.
func (d *DurableEvents) begin(e durableEvent) {
	var once sync.Once
	e.ended = func(err error) { once.Do(func() { d.end(e, err) }) }
	d.running.Add(1)
	deliver(d.cfg.Pool, func() {
		returned := false
		defer func() {
			if !returned { // a panic; the pool logs it
				e.ended(errors.New("services: the service panicked"))
			}
		}()
		d.run(e)
		returned = true
	}, func() { e.ended(errors.New("services: the pool has stopped")) })
}

// end tells the database what became of the event. If that fails the event
// runs again when the lease is over.
func (d *DurableEvents) end(e durableEvent, err error) {
	sql, args := endEvent, []any{e.key, int64(e.attempt)}
	if err != nil {
		d.failed.Add(1)
		if e.attempt >= d.cfg.MaxAttempts {
			d.cfg.Logger.Error("services: durable event given up", "key", e.key, "handle", handleText(e.handle), "attempts", e.attempt, "err", err)
		}
		pause := min(d.cfg.Retry<<min(e.attempt-1, 20), time.Hour)
		sql, args = retryEvent, append(args, pause.Microseconds())
		d.look(pause)
	} else {
		d.ran.Add(1)
	}
	done := func(r dbasync.QueryResult) {
		if r.Err != nil {
			d.cfg.Logger.Warn("services: durable event runs again", "key", e.key, "err", r.Err)
		}
		d.over()
	}
	if err := d.cfg.DB.Exec(context.Background(), nil, done, dbasync.Stmt{SQL: sql}, args...); err != nil {
		d.cfg.Logger.Warn("services: durable event runs again", "key", e.key, "err", err)
		d.over()
	}
}

func (d *DurableEvents) over() {
	d.running.Add(-1)
	select {
	case d.idle <- struct{}{}:
	default:
	}
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
