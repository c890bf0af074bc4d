// Package netio has the interfaces between the engine and the network: connections and loops, and
// what the engine implements to get their events. gnetio implements the network on gnet and Linux,
// simnet in memory; package door adds TLS and WebSocket as layers over Conn.
package netio

import (
	"crypto/tls"
	"iter"
	"net"
	"syscall"
	"time"
)

// Conn is one connection. Its methods are called on its loop's goroutine, except those
// that say otherwise. A connection has no write buffer of its own: bytes that the kernel does not
// take stay with the caller.
type Conn interface {
	// Write gives bytes to the kernel. It does not keep p. n < len(p) with a nil error: the kernel
	// takes no more now.
	Write(p []byte) (n int, err error)
	// NotifyWritable makes the network call Host.Writable with id, once, when the kernel takes
	// bytes again.
	NotifyWritable(id uint64) error
	// PauseReading pauses or resumes reading. False: that is not possible.
	PauseReading(pause bool) bool
	// ReadRest reads what the kernel still has of a connection that has hung up (EndHangup), up to
	// the FIN. It calls take for each piece, which is valid until take returns; false on an error.
	ReadRest(take func([]byte)) bool
	// Unread returns how many received bytes have not been read.
	Unread() int
	// Unacked returns how many written bytes the peer's kernel has not acknowledged; on a unix
	// socket it is 0 exactly when the peer has read everything.
	Unacked() int
	// Acks returns what the kernel knows of the peer's acknowledgements; zero on a unix socket.
	Acks() Acks
	// CloseWrite sends the FIN after what was written.
	CloseWrite()
	// Detach, called in Sink.Closed, keeps the descriptor open after it, so that pending answers
	// can be written. Nothing is read any more: only Write and Acks tell of a reset. A NotifyWritable in progress is cancelled and must
	// be called again. False: it can't be kept.
	Detach() bool
	// Abort makes Close send a reset and drop what the kernel has not sent (SO_LINGER 0).
	Abort()
	// Close closes the connection. It may call Sink.Closed before it returns; called inside a
	// method of the Sink or in Host.Open, it closes when that returns.
	Close()

	// LocalAddr and RemoteAddr return addresses that never change; a call may return a copy. Any
	// goroutine.
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	// SyscallConn gives access to the descriptor while it is open. Any goroutine.
	SyscallConn() (syscall.RawConn, error)
}

// Joiner is a Conn that can write two pieces with one system call, which saves copying them into one
// buffer.
type Joiner interface {
	// WriteJoined writes head and then body, neither of which may be empty. n counts the bytes of
	// both, as in Write.
	WriteJoined(head, body []byte) (n int, err error)
}

// Door is a Conn whose bytes pass through layers between the caller and the socket.
type Door interface {
	Conn
	// Transport returns "tls", "ws" or "wss", or without such a layer the network of LocalAddr.
	// Any goroutine.
	Transport() string
	// TLS returns the state of the connection's TLS, nil without TLS; it does not change. Any
	// goroutine.
	TLS() *tls.ConnectionState
	// Since is when the socket was accepted.
	Since() time.Time
	// SetCloseCode sets the code of the WebSocket close frame that CloseWrite or Close sends.
	SetCloseCode(code uint16)
	// Owed returns how many bytes are missing of a WebSocket message that Write has begun. Without
	// them Close can't send a close frame.
	Owed() int
	// Shown returns how many bytes at the start of the next Write must be those that the previous
	// Write did not accept: they are encrypted already, or in a message whose header, with its
	// length, is sent.
	Shown() int
	// Finish passes the bytes that Owed asks for, before Close. It keeps b.
	Finish(b []byte)
}

// Acks is what the kernel knows of a peer's acknowledgements.
type Acks struct {
	Owed   bool          // something written is not acknowledged
	Missed bool          // the peer did not answer retransmissions or window probes
	Ago    time.Duration // time since the last acknowledgement
	Reset  bool          // the connection has ended with a reset or a timeout
}

// End is how a connection ended.
type End uint8

const (
	EndReset  End = iota // a reset or another error, or Conn.Close was called
	EndFIN               // the peer's FIN, after everything was read
	EndHangup            // the poller reported a hang-up, and unread input may be left: see ReadRest
)

// Sink takes one connection's events, on its loop's goroutine.
type Sink interface {
	// Received gets bytes that were read, which are valid until it returns.
	Received(b []byte)
	// HungUp is called, at most once, when the peer has sent its FIN, or, with broken, has reset
	// the connection, while a call of this Sink blocks the loop. It runs on the stand-in's
	// goroutine. Input before a FIN may be unread. Closed follows when the blocked call returns.
	HungUp(broken bool)
	// Closed is the last call; the descriptor is closed when it returns, unless Detach
	// was called in it.
	Closed(how End)
}

// LoopKind is who serves the connections that arrive while a callback blocks a loop.
type LoopKind uint8

const (
	LoopAccepts LoopKind = iota // another loop, as this one accepts its own
	LoopGiven                   // nobody: one goroutine accepts for all loops, and those given to this one wait
	LoopReserve                 // this is the loop that serves them when all others are blocked
)

// Loop is one event loop.
type Loop interface {
	// Kind returns the loop's kind. Any goroutine.
	Kind() LoopKind
	// Execute makes the loop call Turner.Turn soon, on its goroutine. Several calls may lead to one
	// turn. Any goroutine.
	Execute() error
	// Idle reports whether the poller has no event for the loop now. Loop goroutine.
	Idle() bool
	// StandIn starts another goroutine that does the loop's work while a callback blocks the
	// loop's own: turns, and reading and closing all of conns but busy. busy is the connection
	// whose Sink was called, nil if it was none's. The caller must make sure that the blocked
	// goroutine uses nothing of the loop until giveBack has returned. giveBack stops the other
	// goroutine and waits for it. conns is ranged over once, on the other goroutine. False: no
	// goroutine was started.
	StandIn(busy Conn, conns iter.Seq[Conn]) (giveBack func(), ok bool)
}

// Turner is the engine's side of a loop. Its method is called on the loop's goroutine.
type Turner interface {
	// Turn is called after Execute.
	Turn()
}

// Refusal says how a connection is refused.
type Refusal struct {
	Goodbye []byte // written before the FIN; may be empty
	AtOnce  bool   // close it now instead of waiting until the peer has read the goodbye
	Code    uint16 // of the WebSocket close frame
}

// Host is the engine as the network sees it.
type Host interface {
	// NewLoop makes the engine's side of a loop. It is called before any Open on it, on its
	// goroutine.
	NewLoop(l Loop) Turner
	// Open is called for a new connection, on its loop's goroutine; fd is its descriptor. If the
	// Sink is nil the connection is refused as the Refusal says. It may run callbacks that block.
	Open(t Turner, c Conn, fd int) (Sink, Refusal)
	// Writable is called after Conn.NotifyWritable. Any goroutine; it must not block.
	Writable(id uint64)
	// AcceptFailed is called when accept has failed for lack of descriptors or memory.
	AcceptFailed()
	// Failed is called when the loops have ended without Stop; once, on any goroutine.
	Failed(err error)
}
