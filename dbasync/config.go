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

	"millrace/internal/mask"
)

// Submitter runs fn once, on a goroutine of its own choice. Submit must not block. It returns nil
// if fn will run, an error that Is net.ErrClosed if the target is closed for good, and any other
// error if it is full now and may be tried again later.
type Submitter interface{ Submit(fn func()) error }

// Limits of fields of Config.
const (
	MostLanes     = 64      // of Lanes
	MostSlowConns = 1 << 16 // of SlowConns, and of TxConns
	DefaultWindow = 256     // of Window; MaxBurst is Window at most
)

// Config configures a DB. A zero field means the default given at the field.
type Config struct {
	// URL is a PostgreSQL connection string (URL or key=value), as pgx reads it,
	// TLS and fallbacks included. Required.
	URL string
	// Name is what log lines call the database. "": URL, without its password.
	Name string
	// Pool runs completions and events that have no other submitter. nil: a pool of the DB's own
	// with 2×GOMAXPROCS goroutines.
	Pool Submitter
	// Observer is notified of connections and of every completion; SetObserver replaces it.
	Observer Observer
	// Logger receives connection changes and the panics of the DB's own pool. nil: discard.
	Logger *slog.Logger
	// Tracer is called at the start and at the end of every query, with its context.
	Tracer QueryTracer
	// OnNotice receives the server's notices (NoticeResponse), one at a time, on the pool, with the
	// query's context. At most 512 are queued; more are dropped (Stats.EventsLost).
	OnNotice func(context.Context, Notice)
	// AfterConnect is called on every new connection before it is used, as pgxpool's is, for lanes
	// and slow connections alike: to register types on c.TypeMap() (c.LoadType), or to SET
	// parameters. An error makes the attempt fail. c must not be kept.
	AfterConnect func(ctx context.Context, c *pgx.Conn) error
	// NewTypeMap makes the type maps that encode arguments and decode rows, if the application has
	// types of its own. nil: pgtype.NewMap. Each map is used by one goroutine at a time.
	NewTypeMap func() *pgtype.Map

	// Lanes is the number of connections shared by all queries. 0: 4. At most MostLanes.
	Lanes int
	// SlowConns is the maximum number of ordinary connections for slow statements. They are opened
	// when there is work for them. 0: 4. At most MostSlowConns.
	SlowConns int
	// TxConns is the maximum number of further ordinary connections, for Tx, SendBatch, Stream, Do
	// and the copies, so that slow statements don't delay these. 0: as SlowConns.
	TxConns int
	// MaxSlowRunning is how many of SlowConns, and how many of TxConns, one Submitter may use at a
	// time. Submitters with work take turns; work without a Submitter of its own (nil, the pool)
	// takes turns too, but has no such limit. 0: all but one.
	MaxSlowRunning int
	// MaxSlowQueue is how many slow statements, and how many transactions, one Submitter may have
	// outstanding; more get ErrQueueFull. 0: a quarter of MaxQueue.
	MaxSlowQueue int
	// Window is the maximum number of queries in flight on one lane. 0: DefaultWindow.
	Window int
	// MaxBurst is the maximum number of queries in one write, under one Sync. 0: 64. At most Window.
	MaxBurst int
	// LaneBytes is the maximum number of bytes of queries in flight on one lane. 0: 1 MiB.
	LaneBytes int
	// MaxQueue is how many accepted queries, on all lanes together, may be outstanding: accepted,
	// and their completion has not begun. 0: 65,536.
	MaxQueue int
	// MaxQueueBytes is how many bytes of arguments these may hold; above it queries are refused.
	// Rows of results whose completion has not begun may take as much again; above that nothing
	// more is read, except one result for each connection, until enough is delivered
	// (DeliveryTimeout). 0: 64 MiB.
	MaxQueueBytes int
	// MaxQueryBytes is the maximum size of the arguments of one query, in bytes. 0: 16 MiB.
	MaxQueryBytes int
	// MaxResultRows and MaxResultBytes limit one result; above them its rows are dropped and its
	// Err is ErrResultTooLarge. The statement still runs to its end, except a ReadOnly one on a
	// lane, which the server stops after MaxResultRows+1 rows. 0: 100,000 rows, 4 MiB. Rows -1: no
	// limit.
	MaxResultRows  int
	MaxResultBytes int
	// MaxShapes is how many different SQL texts stay prepared on each lane. 0: 512.
	MaxShapes int

	// QueryTimeout limits a query's time, waiting included, counted from the call of Query. A
	// context that ends earlier takes precedence. 0: 30 s.
	QueryTimeout time.Duration
	// SlowTimeout is the same for Slow statements, Tx, Do and the copies. 0: 10 min.
	SlowTimeout time.Duration
	// StatementTimeout is the server's statement_timeout on lanes, and for statements that were
	// moved off them because they are slow. 0: 5 s. -1: none.
	StatementTimeout time.Duration
	// StallTimeout closes a lane that has queries in flight and receives nothing for this long. 0:
	// 30 s.
	StallTimeout time.Duration
	// DeliveryTimeout: when MaxQueueBytes of rows wait and none of them is delivered for this long,
	// the oldest half is dropped (ErrResultDropped), so that a submitter that waits for another
	// query gets it. 0: 3 s.
	DeliveryTimeout time.Duration
	// SlowAfter: a statement that took longer than this on a lane is run on the slow connections
	// from then on, until it has been quick again. 0: 250 ms. -1: never.
	SlowAfter time.Duration
	// ConnectTimeout limits one attempt to connect. 0: 5 s.
	ConnectTimeout time.Duration
	// MinBackoff and MaxBackoff limit the pause between attempts to connect; it doubles, with
	// jitter. 0: 50 ms, 1 s.
	MinBackoff, MaxBackoff time.Duration

	// PgBouncer is the pool_mode of a PgBouncer in front of the server: "session" or "transaction";
	// "": none. Startup parameters that PgBouncer refuses are sent as SET. In transaction mode no
	// statement is prepared by name and no StatementTimeout is set (set one with ALTER ROLE, or
	// PgBouncer's query_timeout), Listen is refused, and Do must leave no session state on its
	// connection. Behind either mode a lane has one Sync unanswered at a time, which is slower,
	// because PgBouncer (1.18, for one) may give a server connection whose client disconnected
	// between two answers to another client, remaining answers included.
	PgBouncer string
	// GroupReads lets the ReadOnly queries of one burst share a READ ONLY transaction. If their
	// results together exceed MaxResultBytes, they are delivered before it commits.
	GroupReads bool
	// Strict sends every query under a Sync of its own: slower, for a server or a proxy that
	// doesn't support COMMIT AND CHAIN. It is set automatically below PostgreSQL 12.
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
	setInt(&c.Window, DefaultWindow)
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
	if c.Name == "" {
		c.Name = mask.Conn(c.URL)
	}
	if c.NewTypeMap == nil {
		c.NewTypeMap = pgtype.NewMap
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// validate reports all invalid fields in one error.
func (c Config) validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("dbasync: "+format, args...))
		}
	}
	bad(c.URL != "", "URL is empty")
	bad(c.Lanes >= 1 && c.Lanes <= MostLanes, "Lanes %d is not 1 to %d", c.Lanes, MostLanes)
	bad(c.SlowConns >= 1 && c.SlowConns <= MostSlowConns, "SlowConns %d is not 1 to %d", c.SlowConns, MostSlowConns)
	bad(c.TxConns >= 1 && c.TxConns <= MostSlowConns, "TxConns %d is not 1 to %d", c.TxConns, MostSlowConns)
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
