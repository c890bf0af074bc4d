package services

import (
	"context"
	"errors"
	"fmt"

	"millrace/engine"
	"millrace/services/serial"
	"millrace/timerwheel"
)

// What a stage returns beside nil (go on with the next stage) and a failure.
var (
	// Answer: what stands in the result is the answer; no further stage runs.
	//lint:ignore ST1012 no failure
	Answer = errors.New("services: answer now")
	// Stop: no further stage runs. Of a OneWay service nothing is sent; else the peer gets
	// ERROR internal, as every request has an answer.
	//lint:ignore ST1012 no failure
	Stop = errors.New("services: stop")
)

// Errors of calls between services.
var (
	// ErrUnknownHandle: no service is registered there.
	ErrUnknownHandle = errors.New("services: unknown handle")
	// ErrTypes: the service there has other request or result types.
	ErrTypes = errors.New("services: request or result type does not fit the handle")
	// ErrDepth: calls in line are nested too deep; the text shows the handles.
	ErrDepth = errors.New("services: calls in line nested too deep")
	// ErrDeferred: the service answers later, so it can't be called in line.
	ErrDeferred = errors.New("services: called in line, but answers later")
)

// Error is a failure with the code that the peer is told.
type Error struct {
	Code engine.ErrorCode
	Text string // told to the peer
	Err  error  // why, for the log; may be nil
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v: %s: %v", e.Code, e.Text, e.Err)
	}
	return fmt.Sprintf("%v: %s", e.Code, e.Text)
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; a %w in the format is its Err.
func Errorf(code engine.ErrorCode, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: err.Error(), Err: errors.Unwrap(err)}
}

// codes of errors that others make, first match first.
var codes = []struct {
	is   error
	code engine.ErrorCode
}{
	{serial.ErrBody, engine.CodeBadBody},
	{ErrUnknownHandle, engine.CodeUnknownHandle},
	{ErrCacheDown, engine.CodeUnavailable}, // often because an exchange took too long
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

// failure is an error that says by a standard word what kind it is, so that neither its
// package knows the engine nor this one that package: dbasync's are.
type failure interface{ FailureKind() string }

// failures are the words of FailureKind.
var failures = map[string]engine.ErrorCode{
	"overloaded":  engine.CodeOverloaded,
	"timeout":     engine.CodeTimeout,
	"unavailable": engine.CodeUnavailable,
}

// ErrorOf says what a peer is told about err: an Error as it is (an internal one without
// what it wraps), the known
// errors of the project's packages, and those with a FailureKind() string of "overloaded",
// "timeout" or "unavailable", by their code, else an internal error
// without its text.
func ErrorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if e.Code == engine.CodeInternal && e.Err != nil && e.Err != Stop {
			return &Error{Code: e.Code, Text: internalText, Err: err} // the text has the cause's
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
