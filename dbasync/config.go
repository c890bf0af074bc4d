package dbasync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Submitter runs fn on a goroutine of its own, once. nil: it will run. An error
// that Is net.ErrClosed: the target has gone for good. Any other error: full
// now, try again later.
type Submitter interface{ Submit(fn func()) error }

// Config is the settings of a DB. Zero means the default named at each field.
type Config struct {
	// URL is a PostgreSQL connection string (URL or key=value), as pgx reads it,
	// TLS and fallbacks included. Required.
	URL string
	// Pool runs completions and events that have no other submitter. nil: a pool
	// of the DB's own with twice as many goroutines as CPUs that this process may use.
	Pool Submitter
	// Observer is told of connections and of every completion; SetObserver swaps it.
	Observer Observer
	// Logger gets connection changes and panics of the DB's own pool. nil: discard.
	Logger *slog.Logger
	// Tracer is told of the start and the end of every query, with its context.
	Tracer QueryTracer
	// OnNotice gets what the server says beside its answers, one at a time, on the pool,
	// with the query's context. At most 512 wait; more are lost (Stats.EventsLost).
	OnNotice func(context.Context, Notice)
	// AfterConnect is called on every connection that is made, before it is used, as
	// pgxpool's is: to register types of one's own on c.TypeMap() (c.LoadType), for lanes
	// and slow connections alike, or to SET something. An error makes the attempt fail.
	// On a lane c must not be kept.
	AfterConnect func(ctx context.Context, c *pgx.Conn) error
	// NewTypeMap makes the type maps that encode arguments and decode rows, for
	// types of one's own. nil: pgtype.NewMap. A map is used by one goroutine at a time.
	NewTypeMap func() *pgtype.Map

	// Lanes is how many connections are shared by all queries. 0: 4. At most 64.
	Lanes int
	// SlowConns is how many ordinary connections slow statements share, at most: one is
	// opened when there is work for it. 0: 4.
	SlowConns int
	// TxConns is how many more Tx, SendBatch, Stream, Do and the copies share, so that slow
	// statements don't hold them up. 0: as SlowConns.
	TxConns int
	// MaxSlowRunning is how many of SlowConns, and of TxConns, the work of one Submitter
	// holds at a time. Those with work take turns; what has no Submitter of its own (nil, the
	// pool) takes turns too, and has no such limit. 0: all but one.
	MaxSlowRunning int
	// MaxSlowQueue is how many slow statements, and how many transactions, of one Submitter
	// may be accepted and not ended; more get ErrQueueFull. 0: a quarter of MaxQueue.
	MaxSlowQueue int
	// Window is how many queries one lane has in flight at most. 0: 256.
	Window int
	// MaxBurst is how many queries travel in one write, under one Sync. 0: 64.
	MaxBurst int
	// LaneBytes is how many bytes of queries one lane has in flight. 0: 1 MiB.
	LaneBytes int
	// MaxQueue is how many accepted queries may wait for their completion to
	// begin, on all lanes together. 0: 65,536.
	MaxQueue int
	// MaxQueueBytes is how many bytes of arguments those hold; past it queries are refused.
	// Rows of results whose completion has not begun may take as much again; past that no
	// more is read, beside one result for each connection, until enough is delivered
	// (DeliveryTimeout). 0: 64 MiB.
	MaxQueueBytes int
	// MaxQueryBytes is how many bytes the arguments of one query may have. 0: 16 MiB.
	MaxQueryBytes int
	// MaxResultRows and MaxResultBytes bound one result; past them its rows are
	// dropped and its Err is ErrResultTooLarge. The statement runs to its end all the same,
	// but for a ReadOnly one on a lane, which the server stops after MaxResultRows+1 rows.
	// 0: 100,000 rows, 4 MiB. Rows -1: no limit.
	MaxResultRows  int
	MaxResultBytes int
	// MaxShapes is how many different SQL texts stay prepared on each lane. 0: 512.
	MaxShapes int

	// QueryTimeout ends a query that waits or runs for longer, counted from Query.
	// A context that ends earlier wins. 0: 30 s.
	QueryTimeout time.Duration
	// SlowTimeout is that of Slow statements, Tx, Do and CopyFrom. 0: 10 min.
	SlowTimeout time.Duration
	// StatementTimeout is the server's statement_timeout on lanes, and for what was moved
	// off them for being slow. 0: 5 s. -1: none.
	StatementTimeout time.Duration
	// StallTimeout drops a lane that has queries in flight and hears nothing. 0: 30 s.
	StallTimeout time.Duration
	// DeliveryTimeout: when MaxQueueBytes of rows wait and nothing of them is delivered for
	// so long, half of them go, the oldest (ErrResultDropped), so that a submitter that waits
	// for another query gets it. 0: 3 s.
	DeliveryTimeout time.Duration
	// SlowAfter: a shape that took longer on a lane is run on the slow connections
	// from then on, until it has been quick again. 0: 250 ms. -1: never learn.
	SlowAfter time.Duration
	// ConnectTimeout bounds one attempt to connect. 0: 5 s.
	ConnectTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pause between attempts; it doubles, with
	// jitter. 0: 50 ms, 1 s.
	MinBackoff, MaxBackoff time.Duration

	// PgBouncer is the pool_mode of a PgBouncer between here and the server: "session" or
	// "transaction"; "": none. Startup parameters that it refuses become SETs then. In
	// transaction mode no statement is prepared by name and no StatementTimeout is set
	// (give the role one, or PgBouncer a query_timeout), Listen is refused, and Do must
	// leave nothing on its connection.
	PgBouncer string
	// GroupReads lets ReadOnly queries of one burst share a READ ONLY transaction. Results
	// past MaxResultBytes together are delivered before it commits.
	GroupReads bool
	// Strict sends every query under a Sync of its own: slower, for a server or a
	// proxy that can't COMMIT AND CHAIN. It is used by itself below PostgreSQL 12.
	Strict bool
}

func (c Config) withDefaults() Config {
	setInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	setDur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	setInt(&c.Lanes, 4)
	setInt(&c.SlowConns, 4)
	setInt(&c.TxConns, c.SlowConns)
	setInt(&c.Window, 256)
	setInt(&c.MaxBurst, 64)
	setInt(&c.LaneBytes, 1<<20)
	setInt(&c.MaxQueue, 1<<16)
	setInt(&c.MaxSlowQueue, max(1, c.MaxQueue/4))
	setInt(&c.MaxQueueBytes, 64<<20)
	setInt(&c.MaxQueryBytes, 16<<20)
	setInt(&c.MaxResultRows, 100_000)
	setInt(&c.MaxResultBytes, 4<<20)
	setInt(&c.MaxShapes, 512)
	setDur(&c.QueryTimeout, 30*time.Second)
	setDur(&c.SlowTimeout, 10*time.Minute)
	if c.PgBouncer == PoolTransaction && c.StatementTimeout == 0 {
		c.StatementTimeout = -1
	}
	setDur(&c.StatementTimeout, 5*time.Second)
	setDur(&c.StallTimeout, 30*time.Second)
	setDur(&c.DeliveryTimeout, 3*time.Second)
	setDur(&c.SlowAfter, 250*time.Millisecond)
	setDur(&c.ConnectTimeout, 5*time.Second)
	setDur(&c.MinBackoff, 50*time.Millisecond)
	setDur(&c.MaxBackoff, time.Second)
	if c.NewTypeMap == nil {
		c.NewTypeMap = pgtype.NewMap
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// validate reports every fault at once.
func (c Config) validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("dbasync: "+format, args...))
		}
	}
	bad(c.URL != "", "URL is empty")
	bad(c.Lanes >= 1 && c.Lanes <= 64, "Lanes %d is not 1 to 64", c.Lanes)
	bad(c.SlowConns >= 1, "SlowConns %d is below 1", c.SlowConns)
	bad(c.TxConns >= 1, "TxConns %d is below 1", c.TxConns)
	bad(c.MaxSlowRunning >= 0, "MaxSlowRunning %d is below 0", c.MaxSlowRunning)
	bad(c.MaxSlowQueue >= 1, "MaxSlowQueue %d is below 1", c.MaxSlowQueue)
	bad(c.Window >= 1 && c.Window <= 1<<16, "Window %d is not 1 to 65536", c.Window)
	bad(c.MaxBurst >= 1 && c.MaxBurst <= c.Window, "MaxBurst %d is not 1 to Window %d", c.MaxBurst, c.Window)
	bad(c.MaxQueue >= 1, "MaxQueue %d is below 1", c.MaxQueue)
	bad(c.MaxQueueBytes >= 1, "MaxQueueBytes %d is below 1", c.MaxQueueBytes)
	bad(c.MaxQueryBytes >= 1 && c.MaxQueryBytes < 1<<30, "MaxQueryBytes %d is not 1 to 1 GiB", c.MaxQueryBytes)
	bad(c.LaneBytes >= 1, "LaneBytes %d is below 1", c.LaneBytes)
	bad(c.MaxResultRows >= 1 && c.MaxResultRows < 1<<31-1 || c.MaxResultRows == -1, "MaxResultRows %d", c.MaxResultRows)
	bad(c.MaxResultBytes >= 1, "MaxResultBytes %d is below 1", c.MaxResultBytes)
	bad(c.PgBouncer == "" || c.PgBouncer == PoolSession || c.PgBouncer == PoolTransaction,
		"PgBouncer %q is not session or transaction", c.PgBouncer)
	bad(c.PgBouncer != PoolTransaction || c.StatementTimeout < 0,
		"StatementTimeout %v can't be set behind PgBouncer in transaction mode: leave it 0 and use ALTER ROLE", c.StatementTimeout)
	bad(c.MaxShapes >= 1, "MaxShapes %d is below 1", c.MaxShapes)
	bad(c.MinBackoff > 0 && c.MinBackoff <= c.MaxBackoff, "MinBackoff %v, MaxBackoff %v", c.MinBackoff, c.MaxBackoff)
	for _, d := range []time.Duration{c.QueryTimeout, c.SlowTimeout, c.StallTimeout, c.ConnectTimeout, c.DeliveryTimeout} {
		bad(d > 0, "a timeout of %v", d)
	}
	return errors.Join(errs...)
}

// defaultWorkers is the size of the DB's own pool.
func defaultWorkers() int { return 2 * runtime.GOMAXPROCS(0) }
