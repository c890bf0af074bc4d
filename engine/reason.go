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
	ReasonPeerClosed           // the peer sent a FIN, and all requests were answered
	ReasonPeerReset            // reset, or the connection broke
	ReasonServerClosed         // Session.Close, Server.CloseSocket or Strand.Close
	ReasonBadFrame             // an invalid length or prefix
	ReasonFirstFrame           // FirstFrameTimeout
	ReasonFrame                // FrameTimeout
	ReasonIdle                 // IdleTimeout
	ReasonSlowConsumer         // left MaxOutbound unsolicited bytes unread; MaxOutbox of broadcasts while it still reads
	ReasonOverflow             // exceeded MaxOutbound or MaxPending where reading can't be paused
	ReasonPanic                // a callback panicked
	ReasonDrain                // the server stopped, and the session had nothing outstanding
	ReasonStopped              // the server stopped before the session was done
	ReasonRefused              // a request was refused, and system frames are off
	ReasonMemory               // MemoryBudget was exceeded, and the session held memory that its peer did not read
	ReasonResumeTimeout        // its connection was lost, and it was not resumed within Resume
	ReasonResumeOverrun        // the same, and more than ResumeBytes had to be kept, or the peer lacked data no longer kept
	ReasonReplaced             // the session's user has a newer session; of a connection: the session was resumed on another
	ReasonKicked               // Session.Kick
	ReasonRate                 // exceeded FrameRate, ByteRate or SessionCPU where reading can't be paused
	ReasonMoved                // another server has taken the session over
	reasonCount
)

var reasonNames = [reasonCount]string{
	"none", "peer_closed", "peer_reset", "server_closed", "bad_frame", "first_frame_timeout", "frame_timeout",
	"idle_timeout", "slow_consumer", "overflow", "panic", "drain", "stopped", "refused", "memory_budget", "resume_timeout", "resume_overrun", "replaced",
	"kicked", "rate", "moved",
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
	// ErrClosed: the session or the server has closed, or is closing. It is net.ErrClosed too, so
	// callers can recognize it without importing this package.
	ErrClosed = sched.ErrClosed
	// ErrNotRunning: the pool has not been started. Unlike ErrClosed it may be temporary.
	ErrNotRunning = sched.ErrNotRunning
	// ErrInCallback: Stop was called from a callback that it would wait for. Call it on a separate
	// goroutine.
	ErrInCallback = sched.ErrInCallback
	// ErrBusy: a limit was reached; the returned error is one of the four below and says which.
	// errors.Is reports each of them as ErrBusy. Try again later.
	ErrBusy = errors.New("engine: busy")
	// ErrOutboundFull: the session has MaxOutbound bytes unsent.
	ErrOutboundFull = fmt.Errorf("%w: the session has too much unsent", ErrBusy)
	// ErrOutboxFull: a loop has MaxOutbox bytes of broadcasts, group sends and pushes waiting.
	ErrOutboxFull = fmt.Errorf("%w: a loop has too many broadcasts waiting", ErrBusy)
	// ErrTasksFull: the session or Strand has MaxTasks functions waiting.
	ErrTasksFull = fmt.Errorf("%w: too many functions wait for their turn", ErrBusy)
	// ErrMemory: MemoryBudget is exceeded; for a Strand, StrandMemory.
	ErrMemory = fmt.Errorf("%w: the memory budget is exceeded", ErrBusy)
	// ErrOverloaded: Pool.Submit has MaxQueue functions waiting. Try later.
	ErrOverloaded = sched.ErrOverloaded
	// ErrFrameTooLarge: the body doesn't fit MaxFrame.
	ErrFrameTooLarge = errors.New("engine: frame too large")
	// ErrLimit: a limit of one session was reached, such as MaxGroups.
	ErrLimit = errors.New("engine: limit reached")
	// ErrUnsupported: this system does not support it; the text gives details.
	ErrUnsupported = errors.New("engine: not supported")
)

// Refusal is why a connection was refused.
type Refusal uint8

const (
	RefusedConns     Refusal = iota // MaxConns
	RefusedPerIP                    // MaxConnsPerIP
	RefusedDrain                    // the server is stopping
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

// answer returns the ERROR that a refused connection gets.
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
