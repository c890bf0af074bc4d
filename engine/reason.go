package engine

import (
	"errors"
	"fmt"

	"millrace/engine/internal/sched"
)

// Reason is why a session closed.
type Reason uint8

const (
	reasonNone          Reason = iota
	ReasonPeerClosed           // the peer's FIN, and everything owed was answered
	ReasonPeerReset            // reset, or the connection broke
	ReasonServerClosed         // Session.Close, Server.CloseSocket or Strand.Close
	ReasonBadFrame             // a length or prefix that can't be
	ReasonFirstFrame           // FirstFrameTimeout
	ReasonFrame                // FrameTimeout
	ReasonIdle                 // IdleTimeout
	ReasonSlowConsumer         // left unread MaxOutbound bytes that it had not asked for; of broadcasts MaxOutbox while it takes some
	ReasonOverflow             // passed MaxOutbound or MaxPending where reading can't be paused
	ReasonPanic                // a callback panicked
	ReasonDrain                // the server stopped, and the session had nothing outstanding
	ReasonStopped              // the server stopped before the session was done
	ReasonRefused              // a request refused where system frames are off
	ReasonMemory               // MemoryBudget was exceeded, and the session held memory that its peer did not take
	ReasonResumeTimeout        // its connection broke, and the peer did not come back within Resume
	ReasonResumeOverrun        // the same, and more was to be kept for the peer than ResumeBytes, or the peer lacked what was no longer kept
	ReasonReplaced             // the session's user has a newer one; of a connection: the peer has come back through another
	ReasonKicked               // Session.Kick
	ReasonRate                 // over FrameRate, ByteRate or SessionCPU where reading can't be paused
	reasonCount
)

var reasonNames = [reasonCount]string{
	"none", "peer_closed", "peer_reset", "server_closed", "bad_frame", "first_frame_timeout", "frame_timeout",
	"idle_timeout", "slow_consumer", "overflow", "panic", "drain", "stopped", "refused", "memory_budget", "resume_timeout", "resume_overrun", "replaced",
	"kicked", "rate",
}

func (r Reason) String() string { return name(reasonNames[:], int(r)) }

// MarshalText makes Reason usable as a key in JSON.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r *Reason) UnmarshalText(b []byte) error { return parse((*uint8)(r), reasonNames[:], b) }

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
	SubHello   = 5
	SubWelcome = 6
	SubAck     = 7
	SubBye     = 8

	maxPing = 64 // bytes of a PING's body
)

var (
	// ErrClosed: the session or the server has gone, or is going. It is net.ErrClosed
	// too, which is how callers that know nothing of this package recognise it.
	ErrClosed = sched.ErrClosed
	// ErrNotRunning: the pool has not been started. Unlike ErrClosed it need not stay so.
	ErrNotRunning = sched.ErrNotRunning
	// ErrInCallback: Stop was called from a callback that it would wait for. Call it on a
	// goroutine of its own.
	ErrInCallback = sched.ErrInCallback
	// ErrBusy: something is at its limit; which, says the error that was returned, one of
	// the four below. errors.Is tells that each is ErrBusy. Try later.
	ErrBusy = errors.New("engine: busy")
	// ErrOutboundFull: the session has MaxOutbound bytes unsent.
	ErrOutboundFull = fmt.Errorf("%w: the session has too much unsent", ErrBusy)
	// ErrOutboxFull: a loop has MaxOutbox bytes of broadcasts, group sends and pushes waiting.
	ErrOutboxFull = fmt.Errorf("%w: a loop has too many broadcasts waiting", ErrBusy)
	// ErrTasksFull: the session or Strand has MaxTasks functions waiting.
	ErrTasksFull = fmt.Errorf("%w: too many functions wait for their turn", ErrBusy)
	// ErrMemory: MemoryBudget is exceeded; of a Strand, StrandMemory.
	ErrMemory = fmt.Errorf("%w: the memory budget is exceeded", ErrBusy)
	// ErrOverloaded: Pool.Submit has MaxQueue functions waiting. Try later.
	ErrOverloaded = sched.ErrOverloaded
	// ErrFrameTooLarge: the body doesn't fit MaxFrame.
	ErrFrameTooLarge = errors.New("engine: frame too large")
	// ErrLimit: a limit on what one session may have, such as MaxGroups.
	ErrLimit = errors.New("engine: limit reached")
	// ErrUnsupported: this system can't do it; the text says what.
	ErrUnsupported = errors.New("engine: not supported")
)

// Refusal is why a connection was not accepted.
type Refusal uint8

const (
	RefusedConns     Refusal = iota // MaxConns
	RefusedPerIP                    // MaxConnsPerIP
	RefusedDrain                    // the server stops
	RefusedFiles                    // the process is short of descriptors
	RefusedAdmit                    // Config.Admit
	RefusedRate                     // AcceptRate
	RefusedRatePerIP                // AcceptRatePerIP
	refusalCount
)

var refusalNames = [refusalCount]string{"max_conns", "max_conns_per_ip", "draining", "open_files", "not_admitted", "accept_rate", "accept_rate_per_ip"}

func (r Refusal) String() string { return name(refusalNames[:], int(r)) }

// MarshalText makes Refusal usable as a key in JSON.
func (r Refusal) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r *Refusal) UnmarshalText(b []byte) error { return parse((*uint8)(r), refusalNames[:], b) }

// answer is the ERROR that a refused connection gets.
func (r Refusal) answer() (code ErrorCode, text string) {
	switch r {
	case RefusedConns:
		return CodeLimit, "too many connections"
	case RefusedPerIP:
		return CodeLimit, "too many connections from this address"
	case RefusedRate:
		return CodeLimit, "too many new connections"
	case RefusedRatePerIP:
		return CodeLimit, "too many new connections from this address"
	case RefusedDrain:
		return CodeDraining, "the server is going away"
	case RefusedAdmit:
		return CodeUnauthorised, "not admitted"
	default:
		return CodeLimit, "out of open files"
	}
}
