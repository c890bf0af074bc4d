package services

import (
	"context"
	"errors"
	"fmt"

	"millrace/engine"
	"millrace/services/serial"
	"millrace/timerwheel"
)

// Results of a stage that are neither nil (continue with the next stage) nor a failure.
var (
	// Answer: the result is complete and is sent; no further stage runs.
	//lint:ignore ST1012 not a failure
	Answer = errors.New("services: answer now")
	// Stop: no further stage runs. For a OneWay service nothing is sent; otherwise the peer gets
	// ERROR internal, as every request is answered.
	//lint:ignore ST1012 not a failure
	Stop = errors.New("services: stop")
)

// Errors of calls between services.
var (
	// ErrUnknownHandle: no service is registered for the handle.
	ErrUnknownHandle = errors.New("services: unknown handle")
	// ErrTypes: the service has other request or result types.
	ErrTypes = errors.New("services: request or result type does not fit the handle")
	// ErrDepth: inline calls are nested too deeply; the text lists the handles.
	ErrDepth = errors.New("services: inline calls nested too deeply")
	// ErrDeferred: the service deferred its answer, so it can't be called inline.
	ErrDeferred = errors.New("services: called inline, but its answer is deferred")
)

// Error is a failure with the code that is sent to the peer.
type Error struct {
	Code engine.ErrorCode
	Text string // sent to the peer
	Err  error  // cause, for the log; may be nil
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v: %s: %v", e.Code, e.Text, e.Err)
	}
	return fmt.Sprintf("%v: %s", e.Code, e.Text)
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error; a %w in the format sets its Err.
func Errorf(code engine.ErrorCode, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: err.Error(), Err: errors.Unwrap(err)}
}

// codes maps errors of other packages to codes; the first match is used.
var codes = []struct {
	is   error
	code engine.ErrorCode
}{
	{serial.ErrBody, engine.CodeBadBody},
	{ErrUnknownHandle, engine.CodeUnknownHandle},
	{ErrCacheDown, engine.CodeUnavailable}, // before context errors: its cause is often a timeout
	{context.DeadlineExceeded, engine.CodeTimeout},
	{ErrCacheFull, engine.CodeLimit},
	{ErrCacheKey, engine.CodeLimit},
	{ErrCacheClosed, engine.CodeUnavailable},
	{ErrNotFound, engine.CodeNotFound},
	{timerwheel.ErrTooManyTimers, engine.CodeLimit},
	{timerwheel.ErrNotRunning, engine.CodeUnavailable},
	{engine.ErrFrameTooLarge, engine.CodeLimit},
	{engine.ErrBusy, engine.CodeOverloaded},
	{ErrTooManyRooms, engine.CodeLimit},
	{ErrTooManyMembers, engine.CodeLimit},
	{ErrRoomsStopped, engine.CodeUnavailable},
}

// failure is an error that reports its kind by a standard word, so that its package need not import
// engine, nor this package import it: dbasync's errors do.
type failure interface{ FailureKind() string }

// failures maps the words of FailureKind to codes.
var failures = map[string]engine.ErrorCode{
	"overloaded":  engine.CodeOverloaded,
	"timeout":     engine.CodeTimeout,
	"unavailable": engine.CodeUnavailable,
	"limit":       engine.CodeLimit,
}

// ErrorOf returns the Error sent to a peer for err: an Error itself (an internal one without the
// error it wraps); for the known errors of this project's packages, and for errors with a method
// FailureKind() string that returns "overloaded", "timeout", "unavailable" or "limit", one with the
// matching code; otherwise an internal error without err's text.
func ErrorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if e.Code == engine.CodeInternal && e.Err != nil && e.Err != Stop {
			return &Error{Code: e.Code, Text: internalText, Err: err} // its text contains the cause's
		}
		return e
	}
	for _, c := range codes {
		if errors.Is(err, c.is) {
			text := c.code.String()
			if c.code == engine.CodeBadBody {
				text = err.Error()
			}
			return &Error{Code: c.code, Text: text, Err: err}
		}
	}
	var f failure
	if errors.As(err, &f) {
		if code, ok := failures[f.FailureKind()]; ok {
			return &Error{Code: code, Text: code.String(), Err: err}
		}
	}
	return &Error{Code: engine.CodeInternal, Text: internalText, Err: err}
}

const internalText = "internal error"
