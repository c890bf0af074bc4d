package dbbench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/dbasync"
)

// Rows is how many rows Prepare puts into the table.
const Rows = 10_000

// Workload is what is measured.
type Workload int

// Workloads.
const (
	Select Workload = iota // one row by its key
	Update                 // one row by its key, returning it
)

func (w Workload) String() string { return [...]string{"select", "update"}[w] }

func (w Workload) sql() string {
	if w == Update {
		return "update dbbench set v = v + 1 where id = $1 returning id, v"
	}
	return "select id, v from dbbench where id = $1"
}

// Config is one cell of the comparison. Zero means the default named at each field.
type Config struct {
	URL         string
	Conns       int           // connections on either side. 0: 4
	Outstanding int           // queries in flight in a closed loop. 0: 64
	Rate        int           // open loop: queries a second on a fixed schedule. 0: closed loop
	Duration    time.Duration // of one round of one side. 0: 1 s
	Warmup      time.Duration // before it, not counted. 0: 200 ms
	Workload    Workload
	Workers     int                   // of the pool. 0: twice the CPUs that this process may use
	Group       bool                  // dbasync: ReadOnly queries share a transaction
	OwnTx       bool                  // pgbench: a transaction for each query, as dbasync has
	Change      func(*dbasync.Config) // last word on dbasync's settings
}

func (c Config) withDefaults() Config {
	if c.Conns == 0 {
		c.Conns = 4
	}
	if c.Outstanding == 0 {
		c.Outstanding = 64
	}
	if c.Duration == 0 {
		c.Duration = time.Second
	}
	if c.Warmup == 0 {
		c.Warmup = 200 * time.Millisecond
	}
	if c.Workers == 0 {
		c.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	return c
}

// Round is what one side did in one round.
type Round struct {
	Queries   uint64
	Failed    uint64
	PerSecond float64
	CPU       time.Duration // of this process, per query
	Allocs    float64       // per query
	P50, P99  time.Duration // open loop: from the scheduled time
	Burst     float64       // dbasync: queries per write
}

// Prepare makes the table.
func Prepare(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("dbbench: %w", err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `drop table if exists dbbench;
		create table dbbench(id int primary key, v int not null) with (fillfactor = 50);
		insert into dbbench select g, 0 from generate_series(1, 10000) g;
		vacuum analyze dbbench`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		// vacuum refuses the transaction of a multi-statement text
		_, err = conn.Exec(ctx, "drop table if exists dbbench")
		for _, sql := range []string{
			"create table dbbench(id int primary key, v int not null) with (fillfactor = 50)",
			"insert into dbbench select g, 0 from generate_series(1, 10000) g",
			"vacuum analyze dbbench",
		} {
			if err == nil {
				_, err = conn.Exec(ctx, sql)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("dbbench: %w", err)
	}
	return nil
}

// client is one side: ask starts the query of a call and ends the call on the pool.
type client interface {
	ask(c *call)
	bind(c *call)
	close()
}

// call is one query; a closed loop uses its own again and again, so that what is
// counted as allocated is the client's and not the bench's.
type call struct {
	id       int
	gotID, v int32
	begun    time.Time
	end      func(ok bool)
	onResult func(dbasync.QueryResult) // dbasync's
	onPGX    func()                    // pgxpool's
	ok       bool
}

// recorder counts what happens between begin and end.
type recorder struct {
	on       atomic.Bool
	n, fails atomic.Uint64

	mu   sync.Mutex
	lats []time.Duration // guarded by mu
}

// slot is one place of the closed loop, or of the open loop's counter.
type slot struct {
	rec  *recorder
	lats []time.Duration
}

func (s *slot) note(ok bool, took time.Duration) {
	if !s.rec.on.Load() {
		return
	}
	s.rec.n.Add(1)
	if !ok {
		s.rec.fails.Add(1)
	}
	s.lats = append(s.lats, took)
}

// loop is one place of the closed loop: its next query is issued by the callback of the
// one before.
type loop struct {
	slot
	call
	cl   client
	rng  *rand.Rand
	stop *atomic.Bool
	wg   *sync.WaitGroup
}

func (l *loop) next() {
	if l.stop.Load() {
		l.wg.Done()
		return
	}
	l.begun, l.id = time.Now(), 1+l.rng.IntN(Rows)
	l.cl.ask(&l.call)
}

func (l *loop) finish(ok bool) {
	l.note(ok, time.Since(l.begun))
	l.next()
}

func closedLoop(cl client, cfg Config) Round {
	rec := &recorder{}
	var stop atomic.Bool
	var wg sync.WaitGroup
	loops := make([]*loop, cfg.Outstanding)
	wg.Add(len(loops))
	for i := range loops {
		l := &loop{cl: cl, rng: rand.New(rand.NewPCG(uint64(i), 7)), stop: &stop, wg: &wg}
		l.rec = rec
		l.lats = make([]time.Duration, 0, 1<<16)
		l.end = l.finish
		cl.bind(&l.call)
		loops[i] = l
		go l.next()
	}
	r := measure(rec, cfg)
	stop.Store(true)
	wg.Wait()
	var all []time.Duration
	for _, l := range loops {
		all = append(all, l.lats...)
	}
	r.P50, r.P99 = quantiles(all)
	return r
}

// measure counts for cfg.Duration after the warm-up.
func measure(rec *recorder, cfg Config) Round {
	time.Sleep(cfg.Warmup)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, begun := cpuTime(), time.Now()
	rec.on.Store(true)
	time.Sleep(cfg.Duration)
	rec.on.Store(false)
	took, spent := time.Since(begun), cpuTime()-cpu
	runtime.ReadMemStats(&after)
	r := Round{Queries: rec.n.Load(), Failed: rec.fails.Load()}
	if r.Queries > 0 {
		r.PerSecond = float64(r.Queries) / took.Seconds()
		r.CPU = spent / time.Duration(r.Queries)
		r.Allocs = float64(after.Mallocs-before.Mallocs) / float64(r.Queries)
	}
	return r
}

// openLoop asks on a fixed schedule, however the answers come.
func openLoop(cl client, cfg Config) Round {
	rec := &recorder{}
	var inFlight sync.WaitGroup
	var stop atomic.Bool
	end := make(chan struct{})
	gap := time.Second / time.Duration(cfg.Rate)
	go func() {
		defer close(end)
		rng := rand.New(rand.NewPCG(1, 7))
		begun := time.Now()
		for i := 0; !stop.Load(); i++ {
			due := begun.Add(time.Duration(i) * gap)
			if wait := time.Until(due); wait > 50*time.Microsecond {
				time.Sleep(wait)
			}
			inFlight.Add(1)
			c := &call{id: 1 + rng.IntN(Rows)}
			c.end = func(ok bool) {
				rec.note(ok, time.Since(due))
				inFlight.Done()
			}
			cl.bind(c)
			cl.ask(c)
		}
	}()
	r := measure(rec, cfg)
	stop.Store(true)
	<-end
	inFlight.Wait()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	r.P50, r.P99 = quantiles(rec.lats)
	return r
}

func (r *recorder) note(ok bool, took time.Duration) {
	if !r.on.Load() {
		return
	}
	r.n.Add(1)
	if !ok {
		r.fails.Add(1)
	}
	r.mu.Lock()
	r.lats = append(r.lats, took)
	r.mu.Unlock()
}

// Millrace measures one round of dbasync.
func Millrace(ctx context.Context, cfg Config) (Round, error) {
	cfg = cfg.withDefaults()
	pool := NewPool(cfg.Workers)
	defer pool.Close()
	dc := dbasync.Config{URL: cfg.URL, Lanes: cfg.Conns, Pool: pool, GroupReads: cfg.Group}
	if cfg.Change != nil {
		cfg.Change(&dc)
	}
	db, err := dbasync.New(dc)
	if err != nil {
		return Round{}, err
	}
	if err := db.Start(ctx); err != nil {
		return Round{}, err
	}
	cl := &millrace{db: db, stmt: dbasync.Stmt{SQL: cfg.Workload.sql(), ReadOnly: cfg.Workload == Select}}
	defer cl.close()
	r, err := run(cl, cfg)
	if st := db.Stats(); st.Bursts > 0 {
		r.Burst = float64(st.Accepted) / float64(st.Bursts)
	}
	return r, err
}

// PGXPool measures one round of pgxpool: every query in flight has a goroutine
// in QueryRow, which hands its result to the worker pool.
func PGXPool(ctx context.Context, cfg Config) (Round, error) {
	cfg = cfg.withDefaults()
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return Round{}, err
	}
	pc.MaxConns, pc.MinConns = int32(cfg.Conns), int32(cfg.Conns)
	p, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return Round{}, err
	}
	pool := NewPool(cfg.Workers)
	defer pool.Close()
	cl := newPGX(ctx, p, pool, cfg)
	defer cl.close()
	return run(cl, cfg)
}

func run(cl client, cfg Config) (Round, error) {
	r := Round{}
	if cfg.Rate > 0 {
		r = openLoop(cl, cfg)
	} else {
		r = closedLoop(cl, cfg)
	}
	if r.Queries == 0 || r.Failed > 0 {
		return r, fmt.Errorf("dbbench: %d of %d queries failed", r.Failed, r.Queries)
	}
	return r, nil
}

type millrace struct {
	db   *dbasync.DB
	stmt dbasync.Stmt
}

func (m *millrace) bind(c *call) {
	c.onResult = func(r dbasync.QueryResult) {
		c.end(r.Scan(&c.gotID, &c.v) == nil && int(c.gotID) == c.id)
	}
}

func (m *millrace) ask(c *call) {
	if m.db.Query(context.Background(), nil, c.onResult, m.stmt, c.id) != nil {
		c.end(false)
	}
}

func (m *millrace) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = m.db.Stop(ctx)
}

// pgxClient keeps as many goroutines as queries may be in flight.
type pgxClient struct {
	pool  *pgxpool.Pool
	asks  chan *call
	wg    sync.WaitGroup
	tasks *Pool
	sql   string
}

func newPGX(ctx context.Context, p *pgxpool.Pool, tasks *Pool, cfg Config) *pgxClient {
	n := cfg.Outstanding
	if cfg.Rate > 0 {
		n = 1024
	}
	c := &pgxClient{pool: p, asks: make(chan *call, 1<<16), tasks: tasks, sql: cfg.Workload.sql()}
	for range n {
		c.wg.Go(func() { c.work(ctx) })
	}
	return c
}

func (p *pgxClient) work(ctx context.Context) {
	for c := range p.asks {
		err := p.pool.QueryRow(ctx, p.sql, c.id).Scan(&c.gotID, &c.v)
		c.ok = err == nil && int(c.gotID) == c.id
		_ = p.tasks.Submit(c.onPGX)
	}
}

func (p *pgxClient) bind(c *call) { c.onPGX = func() { c.end(c.ok) } }

func (p *pgxClient) ask(c *call) { p.asks <- c }

func (p *pgxClient) close() {
	close(p.asks)
	p.wg.Wait()
	p.pool.Close()
}
