package dbasync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// fatalError: the peer announced that it closes the connection. The peer may be a pooler, which
// doesn't know what a server behind it has done.
type fatalError struct{ pg *pgconn.PgError }

// inOrder reports whether a server process sent the error at a point where it checks for
// interrupts, and so in order with its answers: it has read nothing beyond its current query. A
// pooler doesn't name a source file of PostgreSQL.
func inOrder(pg *pgconn.PgError) bool {
	switch pg.Code {
	case codeShutdown:
		return pg.Routine == routineInterrupts
	}
	return whileIdle(pg)
}

// whileIdle reports whether the server process timed out waiting for the next command, so that
// nothing it had not answered has run.
func whileIdle(pg *pgconn.PgError) bool {
	return (pg.Code == codeIdleSession || pg.Code == codeIdleInTx) && pg.Routine == routineInterrupts
}

func (e *fatalError) Error() string { return e.pg.Error() }
func (e *fatalError) Unwrap() error { return e.pg }

func brokenf(format string, args ...any) error {
	return fmt.Errorf("dbasync: protocol: "+format, args...)
}

// SQLSTATEs that mean something to a lane.
const (
	codeAborted   = "25P02" // in_failed_sql_transaction
	codeCanceled  = "57014" // query_canceled: statement_timeout
	codeNoStmt    = "26000" // invalid_sql_statement_name
	codeUnsupport = "0A000" // feature_not_supported: cached plan must not change result type
	codeProtocol  = "08P01" // protocol_violation: as many result formats as there were columns
	codeInternal  = "XX000" // internal_error: cache lookup failed for a type
	codeBinary    = "22P03" // invalid_binary_representation
	codeDupStmt   = "42P05" // duplicate_prepared_statement
	codeText      = "22P02" // invalid_text_representation
	codeDate      = "22007" // invalid_datetime_format
	codePrivilege = "42501" // insufficient_privilege
	codeShutdown  = "57P01" // admin_shutdown
	// idle_session_timeout and idle_in_transaction_session_timeout
	codeIdleSession = "57P05"
	codeIdleInTx    = "25P03"

	routineInterrupts = "ProcessInterrupts"
)

// maxTries limits how often one query is put back for a reason of its own: a changed plan, a lost
// prepared statement, Stmt.Retry.
const maxTries = 3

// Phases of the entry at the head.
const (
	phQuery   = iota // before its CommandComplete
	phCommit         // kChain: before its commit's; kStrict: before ReadyForQuery
	phSettled        // kStrict, kDescribe: failed, before ReadyForQuery
	phAgain          // kStrict: put back, before ReadyForQuery
)

// answers is the state machine of the server's answers. It does no I/O and is used by the reader
// only. Between two calls of settle it collects what is finished.
type answers struct {
	index  int // of the lane
	shapes *shapes
	limits limits
	// slowAfter is Config.SlowAfter, calm is Config.StatementTimeout.
	slowAfter, calm time.Duration

	now     time.Duration // when the bytes at hand were read
	resumed time.Duration // when the reader continued after a pause of its own, 0: never

	onNotice func(context.Context, Notice) // nil: no hook

	view fifo   // the FIFO as it was when the bytes arrived
	pos  uint64 // the entry being answered

	phase   int
	bound   bool // BindComplete has arrived for the entry
	aborted bool // ReadyForQuery said 'E' and no rollback has been answered since
	rows    rowSet
	tag     string
	desc    describing
	held    []heldRow // finished in a group whose commit is not yet acknowledged
	nHeld   int       // bytes of those
	// override has the current columns for descriptions that were found stale on this lane.
	override map[*description][]pgconn.FieldDescription

	// collected since the last settle
	fin        []*request // claimed, with their result; ready for delivery
	gone       []*request // answered: their reference is to be released
	again      []*request // did not run: to be put back
	described  []*shape   // described, or not describable
	replan     []staleShape
	bare       bool     // the lane's own prepared statements no longer exist
	redescribe []*shape // a describe that did not run
	failed     []failedShape
	slow       []*shape // learned from 57014
	errors     int      // bursts that ended with an error
	clean      int      // Syncs without one
	syncs      int      // ReadyForQuery messages
	synced     bool     // a ReadyForQuery has arrived
	dirtyBurst bool
	rolledBack bool
}

type limits struct{ rows, bytes int }

// rowSet is the rows of the result that is arriving: DataRow messages as received.
type rowSet struct {
	data []byte
	n    int
	over bool
	at   time.Duration // when it was found to be finished
}

type heldRow struct {
	req  *request
	rows rowSet
	tag  string
}

// staleShape is a shape whose description desc is out of date.
type staleShape struct {
	shape *shape
	desc  *description
}

type failedShape struct {
	shape *shape
	err   error
}

type describing struct {
	params bool
	oids   []uint32
	fields []pgconn.FieldDescription
	done   bool
	err    *pgconn.PgError
}

var errNothingOwed = errors.New("dbasync: protocol: an answer to nothing")

func (a *answers) cur() (entry, bool) {
	if a.pos == a.view.tail {
		return entry{}, false
	}
	return a.view.at(a.pos), true
}

func (a *answers) pop() {
	a.pos++
	a.phase, a.bound = phQuery, false
	a.rows, a.tag = rowSet{}, ""
}

// message handles one message other than DataRow. body is the reader's buffer.
func (a *answers) message(typ byte, body []byte) error {
	switch typ {
	case 'S', 'A', '3':
		return nil // ParameterStatus, NotificationResponse, CloseComplete
	case 'N':
		return a.notice(body)
	case 'E':
		return a.failure(parseError(body))
	}
	e, ok := a.cur()
	if !ok {
		return errNothingOwed
	}
	if e.kind == kDescribe {
		return a.describeMessage(e, typ, body)
	}
	switch typ {
	case '1':
		return a.parsed(e)
	case '2':
		if a.bound && e.kind != kChain {
			return brokenf("BindComplete twice for %v", e.kind)
		}
		a.bound = true
		return nil
	case 'C', 's', 'I':
		return a.complete(e, typ, body)
	case 'Z':
		return a.ready(e, body)
	case 't':
		return nil
	case 'T':
		return a.columns(e, body)
	case 'n':
		return a.columns(e, []byte{0, 0})
	}
	return brokenf("message %q for %v", typ, e.kind)
}

func (a *answers) parsed(e entry) error {
	if e.kind == kSync || a.shapes.unnamed && !a.bound {
		return nil // of the lane's own statements, or of the unnamed one
	}
	if e.req == nil || a.phase != phQuery || a.bound {
		return brokenf("ParseComplete for %v", e.kind)
	}
	a.shapes.prepared(e.req.shape, a.index)
	return nil
}

// rowsArrived takes n complete DataRow messages, or if n is 0 a further piece of one.
func (a *answers) rowsArrived(b []byte, n int) error {
	e, ok := a.cur()
	if !ok || e.req == nil || a.phase != phQuery || !a.bound {
		return brokenf("DataRow out of place")
	}
	a.rows.n += n
	if !e.req.rows || a.rows.over {
		return nil
	}
	if len(a.rows.data)+len(b) > a.limits.bytes || a.limits.rows > 0 && a.rows.n > a.limits.rows {
		a.rows.over, a.rows.data, a.rows.at = true, nil, a.now
		return nil
	}
	a.rows.data = append(a.rows.data, b...)
	return nil
}

func (a *answers) complete(e entry, typ byte, body []byte) error {
	if typ == 's' && e.req == nil || !a.bound {
		return brokenf("completion %q of %v", typ, e.kind)
	}
	a.bound = false
	switch e.kind {
	case kRollback:
		a.aborted, a.rolledBack = false, true
		a.pop()
	case kBegin:
		a.pop()
	case kChain, kStrict:
		return a.queryComplete(e, typ, body)
	case kGroup:
		a.hold(e, a.commandTag(e, typ, body))
		a.pop()
	case kCommit:
		a.releaseHeld()
		a.pop()
	default:
		return brokenf("completion of %v", e.kind)
	}
	return nil
}

func (a *answers) queryComplete(e entry, typ byte, body []byte) error {
	switch {
	case a.phase == phQuery:
		a.tag = a.commandTag(e, typ, body)
		a.tooMuch(e)
		a.phase = phCommit
	case e.kind == kChain:
		a.succeed(e.req, a.rows, a.tag)
		a.gone = append(a.gone, e.req)
		a.pop()
	default:
		return brokenf("second completion of one query")
	}
	return nil
}

func (a *answers) commandTag(e entry, typ byte, body []byte) string {
	if typ != 'C' || len(body) == 0 {
		return ""
	}
	return e.req.shape.tagOf(body[:len(body)-1])
}

// ready handles ReadyForQuery.
func (a *answers) ready(e entry, body []byte) error {
	if len(body) != 1 || body[0] != 'I' && body[0] != 'E' {
		return brokenf("ReadyForQuery %q on a lane", body)
	}
	switch e.kind {
	case kSync:
	case kStrict:
		switch a.phase {
		case phQuery:
			return brokenf("ReadyForQuery before the query's end")
		case phCommit:
			a.succeed(e.req, a.rows, a.tag)
		}
		if a.phase != phAgain {
			a.gone = append(a.gone, e.req)
		}
	default:
		return brokenf("ReadyForQuery for %v", e.kind)
	}
	a.syncPoint(body[0])
	a.pop()
	return nil
}

func (a *answers) syncPoint(status byte) {
	a.aborted = status == 'E'
	a.synced = true
	a.syncs++
	if !a.dirtyBurst {
		a.clean++
	}
	a.dirtyBurst = false
}

// hold keeps the result of a group's query until the group's commit, within the limit of one
// result. (The commit of a READ ONLY transaction doesn't change what was read.)
func (a *answers) hold(e entry, tag string) {
	a.tooMuch(e)
	a.held = append(a.held, heldRow{e.req, a.rows, tag})
	if a.nHeld += cap(a.rows.data); a.nHeld > a.limits.bytes {
		a.releaseHeld()
	}
}

// tooMuch moves a statement whose result was too large, and took long to read to its end, to the
// slow connections from the next time on.
func (a *answers) tooMuch(e entry) {
	if a.rows.over && a.now-a.rows.at > a.slowAfter {
		a.slow = append(a.slow, e.req.shape)
	}
}

func (a *answers) releaseHeld() {
	for _, h := range a.held {
		a.succeed(h.req, h.rows, h.tag)
		a.gone = append(a.gone, h.req)
	}
	clear(a.held)
	a.held, a.nHeld = a.held[:0], 0
}

// succeed: the server has acknowledged r's commit.
func (a *answers) succeed(r *request, rows rowSet, tag string) {
	if _, ok := r.claim(); !ok {
		return // cancelled: the answer is dropped
	}
	res := &r.res
	res.Outcome, res.Conn, res.tag, res.db = OK, a.index, tag, r.db
	res.data, res.rows, res.fields = rows.data, rows.n, a.fieldsOf(r.desc)
	if rows.over {
		res.Err, res.rows = ErrResultTooLarge, 0
	}
	a.fin = append(a.fin, r)
}
