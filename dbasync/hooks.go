package dbasync

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// QueryTracer is pgx.QueryTracer for queries that share their connections: the start and
// the end of every Query, Exec, SendBatch, Tx and so on.
type QueryTracer interface {
	// TraceQueryStart runs on the caller's goroutine, at the beginning of its call; it must not
	// block. The arguments in data are those of Query and Exec; they must not be changed. The
	// returned context is given to TraceQueryEnd and OnNotice, and its values are those of the
	// context that the functions of Tx, Do and the like get.
	TraceQueryStart(ctx context.Context, data pgx.TraceQueryStartData) context.Context
	// TraceQueryEnd runs once for every start, immediately before the query's own callback and on
	// the same goroutine; for a refused query, on the caller's goroutine, with NotRun.
	TraceQueryEnd(ctx context.Context, res QueryResult)
}

// Notice is a notice of the server, sent by RAISE NOTICE for example.
type Notice struct {
	*pgconn.Notice
	SQL  string // of the query that it belongs to; "" if none
	Conn int    // the index of the shared connection, -1 for a slow one
}

// traceStart returns the context that the request keeps. It is called only if there are hooks.
func (db *DB) traceStart(ctx context.Context, sql string, args []any) context.Context {
	if t := db.cfg.Tracer; t != nil {
		return t.TraceQueryStart(ctx, pgx.TraceQueryStartData{SQL: sql, Args: slices.Clone(args)})
	}
	return ctx
}

func (db *DB) traceRefused(ctx context.Context, sql string, err error) {
	if t := db.cfg.Tracer; t != nil {
		t.TraceQueryEnd(ctx, QueryResult{Outcome: NotRun, Err: err, SQL: sql, Conn: -1})
	}
}

// traceEnd runs before r's completion, for a request with a context.
func (db *DB) traceEnd(ctx context.Context, res QueryResult) {
	if t := db.cfg.Tracer; t != nil {
		t.TraceQueryEnd(ctx, res)
	}
}

// maxNotices limits the notices among the events that wait for the pool, so that they can't
// displace connection events.
const maxNotices = maxEvents / 2

// notice hands n to the pool, for OnNotice, in order. It may run on any goroutine.
func (db *DB) notice(ctx context.Context, n Notice) {
	if ctx == nil {
		ctx = context.Background()
	}
	db.events.post(event{ctx: ctx, notice: n})
}

// notice handles NoticeResponse on a lane. It belongs to the query that is being answered.
func (a *answers) notice(body []byte) error {
	if a.onNotice == nil {
		return nil
	}
	n := Notice{Notice: (*pgconn.Notice)(parseError(body)), Conn: a.index}
	var ctx context.Context
	if e, ok := a.cur(); ok && e.req != nil {
		// The lane's reference keeps the request; neither changes once it is queued.
		ctx, n.SQL = e.req.qctx, e.req.stmt.SQL
	}
	a.onNotice(ctx, n)
	return nil
}

// slowNotice is the pgconn hook of an ordinary connection. It runs on the goroutine that uses the
// connection, which has set the request it is used for.
func (db *DB) slowNotice(c *pgconn.PgConn, n *pgconn.Notice) {
	out := Notice{Notice: n, Conn: -1}
	var ctx context.Context
	if r, ok := c.CustomData()[noticeKey].(*request); ok {
		ctx, out.SQL = r.qctx, r.stmt.SQL
	}
	db.notice(ctx, out)
}

// noticeKey is where an ordinary connection keeps the request it is used for.
const noticeKey = "dbasync.request"

// servesFor sets the request that c is used for; nil: none.
func (db *DB) servesFor(c *poolConn, r *request) {
	if db.cfg.OnNotice == nil || c.Conn().IsClosed() {
		return
	}
	if r == nil {
		delete(c.Conn().PgConn().CustomData(), noticeKey)
		return
	}
	c.Conn().PgConn().CustomData()[noticeKey] = r
}
