// Package netio is the seam between the engine and the network: a connection, a loop,
// and what the engine must offer to be given their events. gnetio implements it on
// gnet and Linux; transports are layers over Conn; tests implement it in memory.
package netio

import (
	"crypto/tls"
	"iter"
	"net"
	"syscall"
	"time"
)

// Conn is one connection. Its methods are called on its loop's goroutine, except those
// that say otherwise. A connection writes past the reactor's own buffers, so that every
// unsent byte is in the caller's hands.
type Conn interface {
	// Write gives bytes to the kernel. n < len(p) without an error: it takes no more now.
	Write(p []byte) (n int, err error)
	// NotifyWritable has Host.Writable called with id, once, when the kernel takes bytes again.
	NotifyWritable(id uint64) error
	// PauseReading stops reading, or goes on with it. False: that isn't possible here.
	PauseReading(pause bool) bool
	// ReadRest reads what the kernel still holds of a connection that has hung up, calling
	// take for each piece, which is valid until take returns; false on an error.
	ReadRest(take func([]byte)) bool
	// Unread is how many bytes the kernel holds for reading.
	Unread() int
	// Unacked is how many written bytes the peer's kernel has not acknowledged; on a unix
	// socket those that the peer has not read.
	Unacked() int
	// Acks tells what the kernel knows of the peer's acknowledgements.
	Acks() Acks
	// CloseWrite sends the FIN behind what was written.
	CloseWrite()
	// Detach keeps the descriptor open beyond the end that Sink.Closed has just told, to
	// write what is owed; nothing is read any more, and NotifyWritable is to be called again
	// by who waits for it. False: it can't be kept.
	Detach() bool
	// Abort makes Close a reset that drops what the kernel has not sent.
	Abort()
	// Close closes the connection; it may call Sink.Closed.
	Close()

	// LocalAddr and RemoteAddr never change. Any goroutine.
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	// SyscallConn gives access to the descriptor while it is open. Any goroutine.
	SyscallConn() (syscall.RawConn, error)
}

// Joiner is a Conn that writes two pieces as if they were one, where to put them together
// would cost more.
type Joiner interface {
	// WriteJoined gives head and then body, neither of which is empty, to the kernel. It says
	// as Write does how many of their bytes that took.
	WriteJoined(head, body []byte) (n int, err error)
}

// Door is a Conn whose bytes pass through layers between the caller and the socket.
type Door interface {
	Conn
	// Transport names what the peer came through: "tls", "ws", "wss", or as its LocalAddr
	// says. Any goroutine.
	Transport() string
	// TLS is the state of the connection's TLS, nil where it has none; it does not change.
	// Any goroutine.
	TLS() *tls.ConnectionState
	// Since is when the socket was accepted.
	Since() time.Time
	// SetCloseCode says what a WebSocket is to be closed with, by CloseWrite or Close.
	SetCloseCode(code uint16)
	// Owed is how many bytes are still to come of something that Write has begun, such as a
	// message. Without them Close can't say goodbye.
	Owed() int
	// Shown is with how many bytes the next Write has to begin that an earlier one has had
	// there: they are encrypted, or in a message whose length has been said.
	Shown() int
	// Finish is given what is owed, in front of Close. It keeps b.
	Finish(b []byte)
}

// Acks is what the kernel knows of a peer's acknowledgements.
type Acks struct {
	Owed   bool          // some are owed
	Missed bool          // they were asked for in vain
	Ago    time.Duration // since the last one came
}

// End is how a connection ended.
type End uint8

const (
	EndReset  End = iota // it broke, or Conn.Close was called
	EndFIN               // the peer's FIN, behind everything that was read
	EndHangup            // the poller saw a hang-up and did not read: ReadRest has the rest
)

// Sink takes one connection's events, on its loop's goroutine.
type Sink interface {
	// Received brings bytes, which are valid until it returns.
	Received(b []byte)
	// HungUp tells, at most once, that the peer has sent its FIN, or has broken the connection,
	// while a call of this Sink holds its loop up; on the goroutine that stands in. Bytes may
	// be unread in front of a FIN. Closed follows when the loop goes on.
	HungUp(broken bool)
	// Closed is the last call; the descriptor is closed when it returns, unless Detach
	// was called in it.
	Closed(how End)
}

// LoopKind says who serves the connections that come while a loop is held up.
type LoopKind uint8

const (
	LoopAccepts LoopKind = iota // another loop
	LoopGiven                   // nobody, if they were meant for this one: one goroutine accepts for several loops
	LoopReserve                 // this is the loop that does when all others are held up
)

// Loop is one event loop.
type Loop interface {
	// Kind is what the loop is. Any goroutine.
	Kind() LoopKind
	// Execute has Turner.Turn called soon on the loop's goroutine. Any goroutine.
	Execute() error
	// Idle tells whether the poller has nothing else for the loop now. Loop goroutine.
	Idle() bool
	// StandIn is called while the loop's goroutine is held up inside a call of busy's Sink
	// (of none, if busy is nil), by somebody who has made sure that this goroutine touches
	// nothing of the loop until giveBack has returned. From then until giveBack is called,
	// another goroutine does the loop's work: turns, reading and closing of conns and of
	// connections that come meanwhile, all but busy. giveBack returns when that goroutine
	// has stopped. conns is ranged over once, on the other goroutine. False: not possible.
	StandIn(busy Conn, conns iter.Seq[Conn]) (giveBack func(), ok bool)
}

// Turner is the engine's side of a loop. Loop goroutine.
type Turner interface {
	// Turn does what Execute asked for.
	Turn()
}

// Refusal is how a connection is turned away.
type Refusal struct {
	Goodbye []byte // written before the FIN; may be empty
	AtOnce  bool   // close it now, and don't keep it until the peer has read the goodbye
	Code    uint16 // of a WebSocket's close frame
}

// Host is the engine as the network sees it.
type Host interface {
	// NewLoop makes the engine's side of a loop, before any connection on it is opened.
	NewLoop(l Loop) Turner
	// Open offers a new connection on its loop's goroutine; fd is its descriptor. With a
	// nil Sink it is turned away as the refusal says. It may run callbacks that block.
	Open(t Turner, c Conn, fd int) (Sink, Refusal)
	// Writable tells what NotifyWritable asked for. Any goroutine; must not block.
	Writable(id uint64)
	// AcceptFailed counts an accept that failed for want of files or memory.
	AcceptFailed()
	// Failed tells that the loops have ended by themselves. Called once, any goroutine.
	Failed(err error)
}
