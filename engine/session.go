package engine

import (
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/codec"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/strand"
)

// Session is one connection. Its methods may be called from any goroutine unless they
// say otherwise, and stay safe after it has closed.
type Session struct {
	srv      *Server
	loop     *loop
	id       ID
	conn     netio.Conn
	accepted int64 // unix nanoseconds
	value    any   // strand only

	closing atomic.Uint32 // Reason, once; set before the strand learns of it
	held    atomic.Int32  // answers owed
	ends    atomic.Int32  // 2: strand and loop live; 0: the slot is free
	flags   flags
	step    atomic.Uint32 // how far a worker's turn is
	handle  atomic.Uint32 // of the packet being handled; stored only where it differs
	goAway  atomic.Uint32 // milliseconds from the drain's begin to its GOAWAY, and 1; 0: not told
	unacked int32         // bytes written and not acknowledged, when that was last looked at; loop goroutine only
	ctx     atomic.Pointer[contexts]

	task  sched.Task
	in    strand.Strand
	out   outbox.Box
	dirty *Session // the link of the loop's dirty list; guarded by the loop's mu
	rd    reading  // loop goroutine only

	framesIn          atomic.Uint64
	bytesIn, bytesOut atomic.Uint64

	groups *membership // guarded by srv.groups.mu; a list
}

// ID names the session for good.
func (s *Session) ID() ID { return s.id }

// Index is the session's slot.
func (s *Session) Index() uint32 { return s.id.Index() }

// Round is the slot's round.
func (s *Session) Round() uint32 { return s.id.Round() }

// Server is what the session belongs to.
func (s *Session) Server() *Server { return s.srv }

// Logger is the server's logger with the session's ID.
func (s *Session) Logger() *slog.Logger { return s.srv.cfg.Logger.With("session", s.id.String()) }

// Connected tells whether the session has not begun to close.
func (s *Session) Connected() bool { return s.closing.Load() == 0 }

// RemoteAddr is the peer's address; it stays after close.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// LocalAddr is the address that the peer connected to; it stays after close.
func (s *Session) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// SyscallConn gives access to the connection's descriptor, for socket options, while it is
// open. Nothing may be read from it or written to it.
func (s *Session) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// ConnectedAt is when the connection was accepted.
func (s *Session) ConnectedAt() time.Time { return time.Unix(0, s.accepted) }

// Value is what SetValue set: the user's state. Strand only.
func (s *Session) Value() any { return s.value }

// SetValue keeps v for the session's life. Strand only.
func (s *Session) SetValue(v any) { s.value = v }

// SessionStats counts one session's traffic.
type SessionStats struct {
	FramesIn, FramesOut uint64 // whole frames, system frames included; broadcasts are counted by the server
	BytesIn, BytesOut   uint64 // as read from and written to the socket
	Unsent              int    // bytes that the kernel has not taken
	Pending             int    // memory of the requests that wait or are being handled, in bytes
}

// Stats returns a snapshot.
func (s *Session) Stats() SessionStats {
	return SessionStats{
		FramesIn: s.framesIn.Load(), FramesOut: s.out.Frames(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Unsent: s.out.Size(), Pending: s.in.Held(maxInt),
	}
}

// flags are what has happened to a session, as bits that any goroutine may set.
type flags struct{ bits atomic.Uint32 }

const (
	flagOpened  = 1 << iota // OnSocketAccept has been called, and OnSocketClose not yet
	flagOver                // the strand has handled the last that the peer will ask for
	flagFin                 // the peer's FIN has been handled, or comes next
	flagGrouped             // it has been in a group
	flagLong                // the pool's monitor has found the turn long
	flagMore                // the block being handled has frames behind the one that runs
)

func (f *flags) has(bit uint32) bool { return f.bits.Load()&bit != 0 }

// set sets a bit, and tells whether it was not set before.
func (f *flags) set(bit uint32) bool {
	if f.has(bit) {
		return false
	}
	return f.bits.Or(bit)&bit == 0
}

func (f *flags) clear(bit uint32) {
	if f.has(bit) {
		f.bits.And(^bit)
	}
}

const maxInt = int(^uint(0) >> 1)

// Hold notes that an answer is owed which will come later, from outside the callback:
// until release is called, after the answer has been sent, the session's timeouts stand
// still, and a FIN, a bad frame or a drain waits for it. Calling release again changes
// nothing.
func (s *Session) Hold() (release func()) {
	s.held.Add(1)
	var done atomic.Bool
	return func() {
		if done.CompareAndSwap(false, true) && s.held.Add(-1) == 0 && s.flags.has(flagOver) {
			s.settle()
		}
	}
}

// Close closes the session with ReasonServerClosed: no further OnSocketRead begins,
// what was sent before is still written, then a FIN. It returns at once.
func (s *Session) Close() error {
	if !s.beginClose(ReasonServerClosed) {
		return ErrClosed
	}
	return nil
}

// Submit runs fn in the session's order: after the packets read before it, never at
// the same time as a callback. It never blocks: ErrTasksFull, which is ErrBusy, when MaxTasks
// functions wait, ErrClosed once the session has closed. A function that was accepted runs
// exactly once, before OnSocketClose.
func (s *Session) Submit(fn func()) error {
	switch s.in.Submit(fn, s.srv.cfg.MaxTasks, s.closed, s.srv.budget) {
	case strand.Gone:
		s.srv.stale.Add(1)
		return ErrClosed
	case strand.Full:
		s.srv.busy.Add(1)
		return ErrTasksFull
	case strand.Schedule:
		s.schedule()
	}
	return nil
}

func (s *Session) closed() bool { return s.closing.Load() != 0 }

// schedule puts the strand, which has just become queued, onto the run queue.
func (s *Session) schedule() { s.srv.pool.push(s) }

func (s *Session) String() string { return fmt.Sprintf("session %s (%v)", s.id, s.RemoteAddr()) }

// reserved tells whether p is the engine's own to answer.
func (srv *Server) reserved(p codec.Packet) bool {
	return p.Main == SystemMain && !srv.cfg.NoSystemFrames
}
