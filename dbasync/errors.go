package dbasync

import (
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
)

// Errors that callers compare with errors.Is.
var (
	// ErrQueueFull: a limit of Config (MaxQueue, MaxQueueBytes, MaxSlowQueue) is reached.
	// The query was refused and gets no completion; try again later.
	ErrQueueFull error = &failure{"dbasync: queue full", "overloaded"}
	// ErrClosed: the DB is stopped or was never started. errors.Is(err, net.ErrClosed) is true.
	ErrClosed error = closedError{}
	// ErrTooLong: the arguments of one query are longer than Config.MaxQueryBytes.
	ErrTooLong = errors.New("dbasync: query too long")
	// ErrNotOnLane: the statement controls a transaction or changes the state of its connection,
	// which isn't possible on a shared lane. Use Tx, Do, CopyFrom or Listen.
	ErrNotOnLane = errors.New("dbasync: not possible on a shared connection")
	// ErrKeySlow: a statement can't have both an ordering key and Slow, because slow statements run
	// concurrently.
	ErrKeySlow = errors.New("dbasync: an ordering key and Slow exclude each other")
	// ErrResultTooLarge: the result had more rows or bytes than the limits; its rows were dropped.
	// The outcome says what became of the transaction, which was run to its end.
	ErrResultTooLarge = errors.New("dbasync: result too large")
	// ErrResultDropped: the result's submitter was full, or accepted nothing for
	// Config.DeliveryTimeout, while more than Config.MaxQueueBytes waited for delivery; the rows
	// were dropped. The outcome says what became of the transaction.
	ErrResultDropped = errors.New("dbasync: result dropped, submitter full")
	// ErrTimeout: Config.QueryTimeout (or SlowTimeout) expired.
	ErrTimeout error = &failure{"dbasync: query timeout", "timeout"}
	// ErrNoListen: LISTEN is not possible behind PgBouncer in transaction mode.
	ErrNoListen = errors.New("dbasync: no LISTEN behind PgBouncer in transaction mode: use a DB with a URL of the server itself")
	// ErrBadChannel: the channel's name given to Listen is invalid.
	ErrBadChannel = errors.New("dbasync: bad channel")
	// ErrNoRows: Scan or One found no row. errors.Is(err, pgx.ErrNoRows) is true.
	ErrNoRows = fmt.Errorf("dbasync: %w", pgx.ErrNoRows)
	// ErrConnLost: the connection was lost before the answer arrived.
	ErrConnLost error = &failure{"dbasync: connection lost", "unavailable"}
)

// failure is an error whose FailureKind returns a standard word for the kind of refusal, from which
// servers choose the error code for their clients.
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
	// SQLError: it failed and its transaction was rolled back; no other query is affected.
	SQLError
	// NotRun: it was never sent, or the server reported that it skipped it.
	NotRun
	// MayHaveRun: it was sent, and its answer will not arrive.
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
