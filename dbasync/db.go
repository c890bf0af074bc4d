package dbasync

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/mask"
	"millrace/internal/seldom"
)

// DB runs SQL over a few shared connections and delivers the results to Submitters. All methods may
// be called from any goroutine. Query, Exec and the other methods with a completion never block,
// and never call back on the caller's stack.
type DB struct {
	cfg      Config
	pgCfg    *pgxpool.Config
	settings string // SQL that each connection begins with; see Config.PgBouncer
	wires    wires
	unnamed  bool // no statement has a name
	epoch    time.Time
	encs     encoders
	shapes   *shapes
	lanes    []*lane
	q        queue
	slow     slowPool
	rows     undelivered
	late     late
	watches  watches
	events   events
	listens  listener
	stats    counters
	lanesOut seldom.Outage
	greeted  atomic.Bool // the log has said that all lanes are connected
	hooked   bool        // there is a Tracer or an OnNotice: requests keep their context

	pool     Submitter
	poolPtr  bool     // pool is a pointer, so that it can be compared
	own      *workers // the pool when Config.Pool was nil
	observer atomic.Pointer[Observer]
	requests sync.Pool
	groups   sync.Pool

	quota quota         // of what is accepted and its completion not begun
	idle  chan struct{} // signalled by each completion while stopping

	mu      sync.Mutex
	state   dbState // guarded by mu
	running atomic.Bool
	cancel  context.CancelFunc // guarded by mu
	stopped chan struct{}      // closed when Stop is done
	wg      sync.WaitGroup     // lanes, sweeper
	tasks   sync.WaitGroup     // describes being encoded
}

type dbState uint8

const (
	stateNew dbState = iota
	stateRunning
	stateStopping
	stateStopped
)

// New checks cfg and makes a DB. It starts nothing and connects to nothing.
func New(cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	pgCfg, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		if why := mask.Why(cfg.URL); why != "" { // pgx may quote part of the password
			return nil, fmt.Errorf("dbasync: URL %q: %s", mask.Conn(cfg.URL), why)
		}
		return nil, fmt.Errorf("dbasync: %w", mask.Error(err))
	}
	settings := ""
	if cfg.PgBouncer != "" {
		if settings, err = poolerSettings(cfg.PgBouncer, pgCfg.ConnConfig.RuntimeParams); err != nil {
			return nil, err
		}
	}
	if cfg.PgBouncer == PoolTransaction {
		pgCfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	db := &DB{cfg: cfg, pgCfg: pgCfg, settings: settings, unnamed: cfg.PgBouncer == PoolTransaction, epoch: time.Now(), stopped: make(chan struct{}), idle: make(chan struct{}, 1)}
	db.encs.init(cfg.NewTypeMap)
	db.shapes = newShapes(cfg.MaxShapes, &db.encs)
	db.shapes.unnamed, db.wires = db.unnamed, newWires(db.unnamed)
	db.lanes = make([]*lane, cfg.Lanes)
	for i := range db.lanes {
		l := &lane{db: db, index: i}
		l.turn.L = &l.mu
		db.lanes[i] = l
	}
	db.q.init(db, db.lanes)
	db.quota.init(len(db.q.inboxes), cfg.MaxQueue, cfg.MaxQueueBytes)
	db.rows.init(db)
	db.watches.init()
	db.late.db, db.late.kick = db, make(chan struct{}, 1)
	db.events.db = db
	db.slow.db = db
	db.listens.db = db
	db.logOutages()
	db.hooked = cfg.Tracer != nil || cfg.OnNotice != nil
	if cfg.Observer != nil {
		db.SetObserver(cfg.Observer)
	}
	return db, nil
}

// Start begins to connect and returns; the server need not be up yet. ctx has no effect after Start
// has returned. A DB can't be started twice.
func (db *DB) Start(context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.state != stateNew {
		return errors.New("dbasync: started before")
	}
	db.pool = db.cfg.Pool
	if db.pool == nil {
		db.own = newWorkers(defaultWorkers(), db.cfg.MaxQueue+maxEvents, db.cfg.Logger)
		db.pool = db.own
	}
	db.poolPtr = reflect.TypeOf(db.pool).Kind() == reflect.Pointer
	ctx, cancel := context.WithCancel(context.Background())
	if err := db.slow.start(ctx); err != nil {
		cancel()
		if db.own != nil {
			db.own.stop()
		}
		return err
	}
	db.cancel = cancel
	db.state = stateRunning
	for _, l := range db.lanes {
		db.wg.Go(func() { l.run(ctx) })
	}
	db.wg.Go(func() { db.sweep(ctx) })
	db.running.Store(true)
	return nil
}

// Running reports whether queries are accepted.
func (db *DB) Running() bool { return db.running.Load() }

// Conn returns the shared connection i, 0 to Config.Lanes-1.
func (db *DB) Conn(i int) Conn { return Conn{db.lanes[i]} }

// Connected reports whether at least one shared connection is up.
func (db *DB) Connected() bool {
	for _, l := range db.lanes {
		if l.up.Load() {
			return true
		}
	}
	return false
}

// SetObserver replaces the observer, also while running; nil: none.
func (db *DB) SetObserver(o Observer) {
	if o == nil {
		db.observer.Store(nil)
		return
	}
	db.observer.Store(&o)
}

// Stop refuses new queries, waits for the accepted ones until ctx ends, ends the remaining ones
// (NotRun if they were not sent, otherwise MayHaveRun), delivers every completion and closes the
// connections. A completion that neither its submitter nor the pool accepts runs on Stop's
// goroutine. Stop may be called twice; the second call waits for the first. The error reports that
// queries were cut short.
func (db *DB) Stop(ctx context.Context) error {
	db.mu.Lock()
	switch db.state {
	case stateNew:
		db.state = stateStopped
		close(db.stopped)
		db.mu.Unlock()
		return nil
	case stateStopping, stateStopped:
		db.mu.Unlock()
		<-db.stopped
		return nil
	}
	db.state = stateStopping
	db.mu.Unlock()
	err := db.shutdown(ctx)
	db.mu.Lock()
	db.state = stateStopped
	db.mu.Unlock()
	close(db.stopped)
	return err
}

// flushTime is how long Stop continues to offer completions to full submitters.
const flushTime = time.Second

func (db *DB) shutdown(ctx context.Context) error {
	db.running.Store(false)
	db.q.lock()
	db.q.close()
	db.q.unlock()
	cut := db.drain(ctx)
	for _, r := range db.q.drain() {
		r.end(NotRun, ErrClosed)
		r.release()
	}
	db.cancel()
	db.listens.stop()
	db.listens.out.End()
	db.slow.stop()
	db.wg.Wait()
	db.lanesOut.End()
	db.tasks.Wait()
	db.late.flush(time.Now().Add(flushTime))
	db.events.start()
	if db.own != nil {
		db.own.stop()
	}
	db.late.flush(time.Now())
	db.watches.close()
	if cut > 0 {
		return fmt.Errorf("dbasync: stop: %d queries cut short: %w", cut, ctx.Err())
	}
	return nil
}

// drain waits until nothing is outstanding, or returns how much was when ctx ended.
func (db *DB) drain(ctx context.Context) int64 {
	for {
		n, _ := db.quota.used()
		if n == 0 {
			return 0
		}
		select {
		case <-db.idle:
		case <-ctx.Done():
			return n
		}
	}
}

// settled stops counting r as outstanding: its completion begins. p is the caller's part of
// the quota.
func (db *DB) settled(r *request, p *quotaPart) {
	if r.share != nil {
		db.q.lock()
		r.share.settled()
		db.q.unlock()
	}
	db.quota.give(p, r.bytes)
	if !db.running.Load() {
		select {
		case db.idle <- struct{}{}:
		default:
		}
	}
}

func (db *DB) now() time.Duration { return time.Since(db.epoch) }

// sweepEvery is the precision of timeouts.
const sweepEvery = 50 * time.Millisecond

// sweep is the DB's housekeeping goroutine: it ends queries whose timeout has expired, closes
// silent connections, and offers refused completions again.
func (db *DB) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	pause := time.Millisecond
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			db.sweepOnce()
			db.events.start()
			db.listens.retry()
			continue
		case <-db.late.kick:
			if again != nil {
				continue
			}
		case <-again:
		}
		again = nil
		db.late.retry()
		if db.late.waiting.Load() == 0 {
			pause = time.Millisecond
			continue
		}
		again = time.After(pause)
		pause = min(20*time.Millisecond, pause*2)
	}
}

func (db *DB) sweepOnce() {
	now := db.now()
	db.rows.relieve(now)
	out := db.q.expired(int64(now), nil)
	for _, l := range db.lanes {
		out = l.watch(now, out)
	}
	for _, r := range out {
		r.cancel(ErrTimeout)
		r.release()
	}
}
