package engine

import (
	"errors"
	"fmt"
	"net"

	"millrace/codec"
)

// Handler receives a server's events. The three callbacks of one session never run
// at the same time and never out of order: accept, then reads, then close, once. The
// callbacks of different sessions do run at the same time, on the workers and, with
// inline or adaptive dispatch, on the loops.
//
// A callback that panics closes its session with ReasonPanic; the server lives on.
type Handler interface {
	// OnSocketAccept is the first call for a session.
	OnSocketAccept(s *Session)
	// OnSocketRead brings one packet. p.Body is valid until it returns; p.Clone() keeps it.
	OnSocketRead(s *Session, p codec.Packet)
	// OnSocketClose is the last call for a session. Sends fail by then; what was sent
	// before is still on its way out.
	OnSocketClose(s *Session, why Reason)
}

// FinHandler is a Handler that wants to know of a peer's FIN: no more requests will
// come, but answers may still be owed (see Session.Hold). It runs in the session's
// order, after what was read before the FIN; OnSocketClose follows when nothing is owed.
type FinHandler interface {
	OnSocketFin(s *Session)
}

// EarlyFinHandler is a Handler that wants to know of a peer's FIN also while the
// session's last callback still runs, so that what others wait for need not wait for that
// callback too: its locks, say. It is called at most once, some milliseconds after the
// FIN and only if that callback is on a worker and no packet waits behind it, beside the callback and on
// another goroutine; OnSocketFin still comes in its turn. It must be fit to run twice
// and beside anything.
type EarlyFinHandler interface {
	OnSocketFinEarly(s *Session)
}

// Reason is why a session closed.
type Reason uint8

const (
	reasonNone         Reason = iota
	ReasonPeerClosed          // the peer's FIN, and everything owed was answered
	ReasonPeerReset           // reset, or the connection broke
	ReasonServerClosed        // Session.Close or Server.CloseSocket
	ReasonBadFrame            // a length or prefix that can't be
	ReasonFirstFrame          // FirstFrameTimeout
	ReasonFrame               // FrameTimeout
	ReasonIdle                // IdleTimeout
	ReasonSlowConsumer        // left unread MaxOutbound bytes that it had not asked for
	ReasonOverflow            // passed MaxOutbound or MaxPending where reading can't be paused
	ReasonPanic               // a callback panicked
	ReasonDrain               // the server stopped, and the session had nothing outstanding
	ReasonStopped             // the server stopped before the session was done
	ReasonRefused             // a request refused where system frames are off
	reasonCount
)

var reasonNames = [reasonCount]string{
	"none", "peer_closed", "peer_reset", "server_closed", "bad_frame", "first_frame_timeout", "frame_timeout",
	"idle_timeout", "slow_consumer", "overflow", "panic", "drain", "stopped", "refused",
}

func (r Reason) String() string { return name(reasonNames[:], int(r)) }

// ErrorCode is the code of an ERROR frame.
type ErrorCode uint16

const (
	CodeBadFrame ErrorCode = iota + 1
	CodeUnknownHandle
	CodeBadBody
	CodeOverloaded
	CodeTimeout
	CodeInternal
	CodeDraining
	CodeUnauthorised
	CodeConflict
	CodeNotFound
	CodeUnavailable
	CodeLimit
)

var codeNames = []string{"ok", "bad_frame", "unknown_handle", "bad_body", "overloaded", "timeout", "internal",
	"draining", "unauthorised", "conflict", "not_found", "unavailable", "limit"}

func (c ErrorCode) String() string { return name(codeNames, int(c)) }

// The system frames: Main 0.
const (
	SystemMain = 0
	SubPing    = 1
	SubPong    = 2
	SubError   = 3
	SubGoAway  = 4

	maxPing = 64 // bytes of a PING's body
)

var (
	// ErrClosed: the session or the server has gone, or is going. It is net.ErrClosed
	// too, which is how callers that know nothing of this package recognise it.
	ErrClosed = fmt.Errorf("engine: closed: %w", net.ErrClosed)
	// ErrBusy: the session's, its tasks' or a loop's outbox is at its limit. Try later.
	ErrBusy = errors.New("engine: busy")
	// ErrOverloaded: Pool.Submit has MaxQueue functions waiting. Try later.
	ErrOverloaded = errors.New("engine: overloaded")
	// ErrFrameTooLarge: the body doesn't fit MaxFrame.
	ErrFrameTooLarge = errors.New("engine: frame too large")
	// ErrLimit: a limit on what one session may have, such as MaxGroups.
	ErrLimit = errors.New("engine: limit reached")
	// ErrUnsupported: this system can't do it; the text says what.
	ErrUnsupported = errors.New("engine: not supported")
)
