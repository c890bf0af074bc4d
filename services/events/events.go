package events

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
	"millrace/internal/seldom"
	"millrace/services"
)

// Service stores events and runs those that are due.
type Service struct {
	cfg Config
	run func(e services.DurableEvent) // the controller's; set before Start

	mu      sync.Mutex
	cancel  context.CancelFunc // nil while stopped
	release context.CancelFunc // ends the renewal of leases
	stopped chan struct{}
	renewed chan struct{} // closed when that has ended
	poke    chan struct{}
	running atomic.Int64
	idle    chan struct{} // capacity 1; notified when an event has ended

	ready atomic.Bool   // the table exists
	out   seldom.Outage // of the database

	holding sync.Mutex
	held    map[string]*hold // guarded by holding; events running here, by key

	stored, ran, failed, givenUp, lost, overdue atomic.Uint64
}

// event is a claimed row.
type event struct {
	key     string
	handle  uint32
	body    []byte
	late    time.Duration
	attempt int
	created time.Time   // distinguishes it from a later event with its key
	hold    *hold       // set by begin
	bad     error       // why it can't run
	ended   func(error) // once
}

func (e *event) handleText() string { return fmt.Sprintf("%d/%d", e.handle>>16, e.handle&0xffff) }

var _ services.DurableEvents = (*Service)(nil)

// New checks the settings; it starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Pool == nil {
		return nil, errors.New("events: without a database or a pool")
	}
	if cfg.Poll < 0 || cfg.Lease < 0 || cfg.Retry < 0 || cfg.MaxRun < 0 || cfg.MaxAttempts < 0 || cfg.MaxRunning < 0 {
		return nil, errors.New("events: a setting is negative")
	}
	d := &Service{cfg: cfg.withDefaults(), poke: make(chan struct{}, 1), idle: make(chan struct{}, 1), held: map[string]*hold{}}
	d.logOutages()
	return d, nil
}

// logOutages sets what the log says while the database fails.
func (d *Service) logOutages() {
	log := d.cfg.Logger
	d.out.Lost = func(n int, err error, away time.Duration, _ bool) {
		log.Warn("events: the database fails: no durable event runs", "for", away.Round(time.Millisecond), "attempts", n, "err", err, "again", d.cfg.Poll)
	}
	d.out.Back = func(away time.Duration, err error) {
		if err != nil {
			log.Warn("events: the database failed", "for", away.Round(time.Millisecond), "err", err)
			return
		}
		log.Info("events: the database answers again: durable events run", "after", away.Round(time.Millisecond))
	}
}

// Schema holds the migrations of the table, for programs that migrate all their tables in one place
// (dbasync/migrate).
//
//go:embed sql/*.sql
var Schema embed.FS

// Bind implements services.DurableEvents; the controller calls it.
func (d *Service) Bind(run func(services.DurableEvent)) { d.run = run }

// Start migrates the table and begins to look for due events. If the database is unavailable, that
// happens as soon as it is available; until then Healthy returns an error. Start returns an error
// if this program can't use the table.
func (d *Service) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.run == nil:
		return errors.New("events: no controller has been bound")
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
		d.out.Fail(err)
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

// firstTry limits how long Start waits for the database.
const firstTry = 2 * time.Second

// prepare migrates the table.
func (d *Service) prepare(ctx context.Context) error {
	if d.cfg.URL != "" && !d.ready.Load() {
		if _, err := migrate.Run(ctx, d.cfg.URL, "events", Schema); err != nil {
			return fmt.Errorf("events: %w", err)
		}
	}
	d.ready.Store(true)
	return nil
}

// Healthy returns an error until the table exists.
func (d *Service) Healthy() error {
	if !d.ready.Load() {
		return errors.New("events: waiting for the database")
	}
	return nil
}

// Running reports whether due events are run.
func (d *Service) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel != nil
}

// Stop accepts no further events and waits for those running, until ctx ends.
func (d *Service) Stop(ctx context.Context) error {
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
		d.out.End()
	}()
	for d.running.Load() > 0 {
		select {
		case <-d.idle:
		case <-ctx.Done():
			return fmt.Errorf("events: %d are still running: %w", d.running.Load(), ctx.Err())
		}
	}
	return nil
}

// Stats are the statistics of this process.
type Stats struct {
	Stored, Ran, Failed uint64
	GivenUp             uint64 // moved to millrace_events_given_up
	Lost                uint64 // claimed by another process, or cancelled, while they ran here
	Overdue             uint64 // ran for longer than MaxRun
	Running             int64
}

// Stats returns the counters.
func (d *Service) Stats() Stats {
	return Stats{
		Stored: d.stored.Load(), Ran: d.ran.Load(), Failed: d.failed.Load(), GivenUp: d.givenUp.Load(),
		Lost: d.lost.Load(), Overdue: d.overdue.Load(), Running: d.running.Load(),
	}
}

// Store adds an event to the table, due after delay, and calls done, which may be nil, on on:
// stored is false if an event with that key is already pending. body must not change until then.
// Errors are those of dbasync.DB.Query; then done is not called.
func (d *Service) Store(on services.Submitter, key string, handle uint32, body []byte, delay time.Duration, done func(bool, error)) error {
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

// look schedules a read of the table in d, if that is before the next poll.
func (d *Service) look(in time.Duration) {
	wake := func() {
		select {
		case d.poke <- struct{}{}:
		default:
		}
	}
	if in <= 0 {
		wake()
	} else if in < d.cfg.Poll { // later events are found by a poll
		time.AfterFunc(in, wake)
	}
}

// loop claims due events, until ctx ends. It runs on a goroutine of the service.
func (d *Service) loop(ctx context.Context) {
	for !d.ready.Load() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(d.cfg.Poll):
			if err := d.prepare(ctx); err != nil && ctx.Err() == nil {
				d.out.Fail(err)
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
			if err == nil {
				d.out.Fine()
			}
			switch {
			case err != nil && ctx.Err() == nil:
				d.out.Fail(err)
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
func (d *Service) query(ctx context.Context, sql string, args ...any) (dbasync.QueryResult, error) {
	got := make(chan dbasync.QueryResult, 1)
	if err := d.cfg.DB.Query(ctx, nil, func(r dbasync.QueryResult) { got <- r }, dbasync.Stmt{SQL: sql}, args...); err != nil {
		return dbasync.QueryResult{}, err
	}
	r := <-got
	return r, r.Err
}

func (d *Service) claim(ctx context.Context, most int64) (int, error) {
	r, err := d.query(ctx, claimEvents, most, d.cfg.Lease.Microseconds(), int64(d.cfg.MaxAttempts), d.heldKeys(true))
	if err != nil {
		return 0, err
	}
	rows := r.Rows()
	defer rows.Close()
	for rows.Next() {
		var e event
		var handle, late int64
		if err := rows.Scan(&e.key, &handle, &e.created, &e.body, &e.attempt, &late); err != nil {
			d.cfg.Logger.Error("events: a durable event can't be read", "err", err)
			continue // the other rows are readable
		}
		e.handle, e.late = uint32(handle), max(0, time.Duration(late)*time.Microsecond)
		if handle != int64(e.handle) {
			e.bad = fmt.Errorf("events: invalid handle %d", handle)
		}
		d.begin(e)
	}
	return r.Len(), rows.Err()
}

// next returns the time until the next event is due, at least 1 ms.
func (d *Service) next(ctx context.Context) time.Duration {
	r, err := d.query(ctx, nextEvent, int64(d.cfg.MaxAttempts), d.heldKeys(true))
	var micros *int64
	if err != nil || r.Scan(&micros) != nil || micros == nil {
		return d.cfg.Poll
	}
	return max(time.Millisecond, time.Duration(*micros)*time.Microsecond)
}

// Cancel removes an event that is not running, and calls done on on.
func (d *Service) Cancel(on services.Submitter, key string, done func(removed bool, err error)) error {
	return d.cfg.DB.Exec(context.Background(), on, func(r dbasync.QueryResult) {
		if done != nil && !r.Stale {
			done(r.Err == nil && r.RowsAffected() == 1, r.Err)
		}
	}, dbasync.Stmt{SQL: cancelEvent}, key)
}
