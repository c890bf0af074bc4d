package dbasync

import (
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
)

// Errors a caller decides on.
var (
	// ErrQueueFull: a limit of Config (MaxQueue, MaxQueueBytes, MaxSlowQueue) is reached.
	// The query was refused and gets no completion; try again later.
	ErrQueueFull error = &failure{"dbasync: queue full", "overloaded"}
	// ErrClosed: the DB is stopped or was never started. errors.Is(err,
	// net.ErrClosed) holds.
	ErrClosed error = closedError{}
	// ErrTooLong: the arguments of one query are longer than Config.MaxQueryBytes.
	ErrTooLong = errors.New("dbasync: query too long")
	// ErrNotOnLane: the statement controls a transaction or the state of its
	// connection, which a shared lane can't give it. Use Tx, Do, CopyFrom or Listen.
	ErrNotOnLane = errors.New("dbasync: not possible on a shared connection")
	// ErrKeySlow: a statement can't have an ordering key and be Slow: slow ones
	// run beside each other.
	ErrKeySlow = errors.New("dbasync: an ordering key and Slow exclude each other")
	// ErrResultTooLarge: the result had more rows or bytes than the limits; its rows
	// were dropped. The outcome tells what became of the transaction, which was run whole.
	ErrResultTooLarge = errors.New("dbasync: result too large")
	// ErrResultDropped: the result's submitter was full, or took nothing for
	// Config.DeliveryTimeout, while more than Config.MaxQueueBytes waited for delivery; its
	// rows were dropped. The outcome tells what became of the transaction.
	ErrResultDropped = errors.New("dbasync: result dropped, submitter full")
	// ErrTimeout: Config.QueryTimeout (or SlowTimeout) passed.
	ErrTimeout error = &failure{"dbasync: query timeout", "timeout"}
	// ErrNoListen: PgBouncer in transaction mode keeps no LISTEN.
	ErrNoListen = errors.New("dbasync: no LISTEN behind PgBouncer in transaction mode: use a DB with a URL of the server itself")
	// ErrBadChannel: Listen's channel has no name that the server could hear.
	ErrBadChannel = errors.New("dbasync: bad channel")
	// ErrNoRows: Scan or One found no row. errors.Is(err, pgx.ErrNoRows) holds.
	ErrNoRows = fmt.Errorf("dbasync: %w", pgx.ErrNoRows)
	// ErrConnLost: the connection broke before the answer came.
	ErrConnLost error = &failure{"dbasync: connection lost", "unavailable"}
)

// failure is an error whose FailureKind tells servers, in a standard word, what kind of
// refusal their peers have met.
type failure struct{ text, kind string }

func (e *failure) Error() string       { return e.text }
func (e *failure) FailureKind() string { return e.kind }

type closedError struct{}

func (closedError) FailureKind() string  { return "unavailable" }
func (closedError) Error() string        { return "dbasync: closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// Outcome says what became of an accepted query.
type Outcome uint8

const (
	// OK: its commit was acknowledged.
	OK Outcome = iota
	// SQLError: it failed and its transaction is undone; no other query is touched.
	SQLError
	// NotRun: it was never sent, or the server said that it skipped it.
	NotRun
	// MayHaveRun: it was sent, and the answer will never come.
	MayHaveRun
)

func (o Outcome) String() string {
	switch o {
	case OK:
		return "ok"
	case SQLError:
		return "sql error"
	case NotRun:
		return "not run"
	case MayHaveRun:
		return "may have run"
	}
	return "unknown"
}
