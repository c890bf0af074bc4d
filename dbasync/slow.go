package dbasync

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/seldom"
)

// job is work that needs an ordinary connection.
type job func(ctx context.Context, c *pgxpool.Conn) (Outcome, string, error)

// slowPool runs what must not delay a lane: Config.SlowConns goroutines for statements and
// Config.TxConns for transactions and the like, each with an ordinary connection while it works.
// They share the idle connections.
type slowPool struct {
	db   *DB
	pool *pgxpool.Pool
	wg   sync.WaitGroup

	panics seldom.Line
}

func (s *slowPool) start(ctx context.Context) error {
	cfg := s.db.pgCfg.Copy()
	cfg.MaxConns, cfg.MinConns = int32(s.db.cfg.SlowConns+s.db.cfg.TxConns), 0
	cfg.ConnConfig.ConnectTimeout = s.db.cfg.ConnectTimeout
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "millrace slow"
	}
	cfg.AfterConnect = s.db.afterConnect()
	cfg.ConnConfig.Tracer = endsTracer{}
	if s.db.cfg.OnNotice != nil {
		cfg.ConnConfig.OnNotice = s.db.slowNotice
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return fmt.Errorf("dbasync: %w", err)
	}
	s.pool = pool
	for range s.db.cfg.SlowConns {
		s.wg.Go(func() { s.work(ctx, &s.db.q.slow) })
	}
	for range s.db.cfg.TxConns {
		s.wg.Go(func() { s.work(ctx, &s.db.q.jobs) })
	}
	return nil
}

// stop returns when the goroutines have ended; the queue must be dead by then.
func (s *slowPool) stop() {
	s.wg.Wait()
	s.pool.Close()
}

func (s *slowPool) work(ctx context.Context, t *turns) {
	pause := newBackoff(s.db.cfg.MinBackoff, s.db.cfg.MaxBackoff)
	for r := s.db.q.takeSlow(t, nil); r != nil; r = s.db.q.takeSlow(t, r) {
		s.serve(ctx, r, pause)
	}
}

// serve runs one request. Until it has a connection it is not sent; while the server is down it
// waits here for its timeout.
func (s *slowPool) serve(base context.Context, r *request, pause *backoff) {
	ctx, cancel := context.WithDeadline(base, s.db.epoch.Add(r.deadline))
	defer cancel()
	r.abort.Store(&cancel)
	for s.serveOnce(base, ctx, r, pause) {
	}
}

// serveOnce runs r; it returns true if r is to be run again, for Stmt.Retry.
func (s *slowPool) serveOnce(base, ctx context.Context, r *request, pause *backoff) bool {
	c := s.acquire(ctx, r, pause)
	if c == nil {
		return false
	}
	defer c.Release()
	if r.state.Load() != stSent && !r.state.CompareAndSwap(stQueued, stSent) {
		return false
	}
	s.db.stats.slow.Add(1)
	s.db.servesFor(c, r)
	defer s.db.servesFor(c, nil)
	if r.job != nil {
		o, tag, err := s.runJob(ctx, r, c)
		s.finish(r, o, tag, err)
		s.clean(base, c)
		return false
	}
	again := s.query(ctx, r, c)
	if r.shape.class == classStrict { // it may have set session state
		s.clean(base, c)
	}
	return again
}

func (s *slowPool) acquire(ctx context.Context, r *request, pause *backoff) *pgxpool.Conn {
	for {
		c, err := s.pool.Acquire(ctx)
		if err == nil {
			pause.reset()
			return c
		}
		if ctx.Err() != nil {
			r.end(NotRun, fmt.Errorf("%w: %w", whyEnded(ctx), err))
			return nil
		}
		s.db.stats.connectFailures.Add(1)
		if err = whyRefused(err); errors.Is(err, ErrRefused) {
			r.end(NotRun, err)
			return nil
		}
		pause.wait(ctx)
	}
}

// whyEnded returns the reason why ctx ended: the timeout or Stop.
func whyEnded(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrTimeout
	}
	return ErrClosed
}

func (s *slowPool) runJob(ctx context.Context, r *request, c *pgxpool.Conn) (o Outcome, tag string, err error) {
	defer func() {
		if p := recover(); p != nil {
			// Its connection is in an unknown state, and what it has committed is unknown too.
			ctx, cancel := parting(ctx, c)
			defer cancel()
			c.Conn().Close(ctx)
			o, err = MayHaveRun, &panicError{p, debug.Stack()}
		}
		var p *panicError
		if errors.As(err, &p) {
			if held, ok := s.panics.Due(); ok {
				s.db.cfg.Logger.Error("dbasync: panic in a transaction", "panic", p.value, "stack", string(p.stack), "omitted", held)
			}
		}
	}()
	return r.job(ctx, c)
}

func (s *slowPool) finish(r *request, o Outcome, tag string, err error) {
	if _, ok := r.claim(); !ok {
		return
	}
	r.res.Outcome, r.res.Err, r.res.tag, r.res.Conn = o, err, tag, -1
	s.db.deliver(r)
}

// query runs a statement from its encoded form. It returns true if the statement was lost and is to
// be sent again.
func (s *slowPool) query(ctx context.Context, r *request, c *pgxpool.Conn) (again bool) {
	if !s.limitProcedure(ctx, r, c.Conn().PgConn()) {
		return false
	}
	began := time.Now()
	rows, fields, tag, err := s.exec(ctx, r, c.Conn().PgConn())
	s.measure(r.shape, time.Since(began), err)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && descriptionFailed(pg) {
			s.db.shapes.renew(r.shape)
		}
		o, err := outcomeOf(ctx, err)
		if o == MayHaveRun && ctx.Err() == nil && r.stmt.Retry && r.tries < maxTries {
			r.tries++
			r.unsure.Store(true)
			return true
		}
		s.finish(r, o, "", err)
		return false
	}
	if _, ok := r.claim(); !ok {
		return false
	}
	res := &r.res
	res.Outcome, res.Conn, res.tag, res.db = OK, -1, tag.String(), s.db
	res.data, res.rows, res.fields = rows.data, rows.n, fields
	if rows.over {
		res.Err, res.rows = ErrResultTooLarge, 0
	}
	s.db.deliver(r)
	return false
}

// collect reads the rows; above the limits it reads on and keeps none. The columns are those that
// the server has sent now: the table may have changed since the shape was described.
func (s *slowPool) collect(r *request, rr *pgconn.ResultReader) (rows rowSet, fields []pgconn.FieldDescription) {
	fields = r.desc.fields
	if now := rr.FieldDescriptions(); len(now) > 0 && !sameFields(now, fields) {
		fields = slices.Clone(now) // rr reuses its own
	}
	lim := limits{s.db.cfg.MaxResultRows, s.db.cfg.MaxResultBytes}
	for rr.NextRow() {
		if !r.rows || rows.over {
			continue
		}
		rows.n++
		rows.data = appendDataRow(rows.data, rr.Values())
		if len(rows.data) > lim.bytes || lim.rows > 0 && rows.n > lim.rows {
			rows = rowSet{over: true}
		}
	}
	return rows, fields
}

// appendDataRow writes values as a DataRow message.
func appendDataRow(dst []byte, values [][]byte) []byte {
	size := 6
	for _, v := range values {
		size += 4 + len(v)
	}
	dst = appendInt32(append(dst, 'D'), size)
	dst = appendInt16(dst, len(values))
	for _, v := range values {
		if v == nil {
			dst = appendInt32(dst, -1)
			continue
		}
		dst = append(appendInt32(dst, len(v)), v...)
	}
	return dst
}

// resultFormats returns the formats of the columns, as in a Bind.
func (d *description) resultFormats() (formats []int16) {
	if d.formatAll >= 0 {
		return []int16{d.formatAll} // applies to a column that was added, too
	}
	for i := range d.fields {
		formats = append(formats, d.fields[i].Format)
	}
	return formats
}

// outcomeOf returns what an error of an ordinary connection means for the one transaction on it.
func outcomeOf(ctx context.Context, err error) (Outcome, error) {
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && isPlainError(pg):
		return SQLError, pg
	case notSent(err) || pg != nil && whileIdle(pg):
		return NotRun, fmt.Errorf("%w: %w", ErrConnLost, err)
	case ctx.Err() != nil:
		return MayHaveRun, fmt.Errorf("%w: %w", whyEnded(ctx), err)
	}
	return MayHaveRun, fmt.Errorf("%w: %w", ErrConnLost, err)
}

// limited reports whether r keeps Config.StatementTimeout, as on a lane, because it was moved here
// automatically. A timeout set by AfterConnect is left alone, as on a lane.
func (s *slowPool) limited(r *request, c *pgconn.PgConn) bool {
	return !r.stmt.Slow && s.db.cfg.StatementTimeout > 0 && c.CustomData()[ownTimeout] == nil
}

// limitProcedure sets the statement timeout of a procedure for the session, since a procedure may
// end its transaction; clean resets it. It returns false if that failed and r has ended.
func (s *slowPool) limitProcedure(ctx context.Context, r *request, c *pgconn.PgConn) bool {
	if r.shape.class != classStrict || !s.limited(r, c) {
		return true
	}
	err := c.Exec(ctx, "set statement_timeout = "+s.db.laneTimeout()).Close()
	if err == nil {
		return true
	}
	why := ErrConnLost
	if ctx.Err() != nil {
		why = whyEnded(ctx)
	}
	s.finish(r, NotRun, "", fmt.Errorf("%w: %w", why, err))
	return false
}

// exec runs a statement in a transaction of its own. Its statement timeout is set for that
// transaction only, in the same write, so that nothing remains for the next one and a pooler may be
// in between.
func (s *slowPool) exec(ctx context.Context, r *request, c *pgconn.PgConn) (rows rowSet, fields []pgconn.FieldDescription, tag pgconn.CommandTag, err error) {
	values, formats := bindParams(r.msg, r.shape.name)
	if !s.limited(r, c) || r.shape.class == classStrict {
		rr := c.ExecParams(ctx, r.shape.sql, values, r.desc.oids, formats, r.desc.resultFormats())
		rows, fields = s.collect(r, rr)
		tag, err = rr.Close()
		return rows, fields, tag, err
	}
	b := &pgconn.Batch{}
	b.ExecParams("select set_config('statement_timeout', '"+s.db.laneTimeout()+"', true)", nil, nil, nil, nil)
	b.ExecParams(r.shape.sql, values, r.desc.oids, formats, r.desc.resultFormats())
	results := c.ExecBatch(ctx, b)
	if results.NextResult() {
		_, _ = results.ResultReader().Close()
	}
	fields = r.desc.fields
	if results.NextResult() {
		rr := results.ResultReader()
		rows, fields = s.collect(r, rr)
		tag, _ = rr.Close()
	}
	return rows, fields, tag, results.Close()
}

// notSent reports whether pgx proves that no byte was written. ErrConnClosed, described as safe to
// retry, proves nothing: pgx returns it also for a statement whose answer it was waiting for when
// the connection broke.
func notSent(err error) bool {
	return pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed)
}

// isPlainError reports whether the statement failed and the connection is still usable. Poolers
// omit the unlocalized severity.
func isPlainError(pg *pgconn.PgError) bool {
	s := pg.SeverityUnlocalized
	if s == "" {
		s = pg.Severity
	}
	return s == "ERROR"
}

// quickRuns is how many quick runs in a row bring a slow shape back to the lanes.
const quickRuns = 16

func (s *slowPool) learn(sh *shape) {
	sh.suspect.Store(false)
	if s.db.cfg.SlowAfter < 0 || sh.slow.Swap(true) {
		return
	}
	sh.quick.Store(0)
	s.db.stats.learned.Add(1)
	s.db.cfg.Logger.Info("dbasync: slow statement moved off the lanes", "sql", clip(sh.sql))
}

// clip quotes the first bytes of a text for a log line.
func clip(sql string) string {
	if len(sql) > 120 {
		sql = sql[:120] + "…"
	}
	return strconv.Quote(sql)
}

// measure brings a slow shape back to the lanes when it has been quick for a while.
func (s *slowPool) measure(sh *shape, took time.Duration, err error) {
	if !sh.slow.Load() {
		return
	}
	if err != nil || took > s.db.cfg.SlowAfter/4 {
		sh.quick.Store(0)
		return
	}
	if sh.quick.Add(1) >= quickRuns {
		sh.slow.Store(false)
	}
}
