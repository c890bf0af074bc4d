package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/engine/internal/inbox"
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
	framing  atomic.Pointer[framing]
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
	meter  *meter      // nil: nothing is counted of it; does not change
}

// line is the session's connection where it can be resumed; nil: it can't.
func (s *Session) line() *line {
	ln, _ := s.conn.(*line)
	return ln
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
	Conflated           uint64 // keyed pushes that never left, as a newer one took their place
	Pending             int    // memory of the requests that wait or are being handled, in bytes
	Paused              Pause  // why it is not read from

	// With Config.Costs or SessionCPU, else 0:
	Busy   time.Duration // its callbacks, and writes to it, have taken so long
	Waited time.Duration // its requests have waited so long for a worker, with how long they do now
}

// Stats returns a snapshot.
func (s *Session) Stats() SessionStats {
	st := SessionStats{
		FramesIn: s.framesIn.Load(), FramesOut: s.out.Frames(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Unsent: s.out.Size(), Pending: s.in.Held(maxInt), Paused: s.pausedFor(), Conflated: s.out.Replaced(),
	}
	if m := s.meter; m != nil && m.cost.costs.on {
		st.Busy, st.Waited = time.Duration(m.cost.spent.Load()), m.waits(s.srv.now())
	}
	return st
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
	flagOther               // it is one of Server.others; set before it has a slot
	flagStep                // a frame is being handled behind which the framing may change
	flagStepFin             // the peer's FIN has come meanwhile
	flagAway                // its connection has broken, and it waits for the next
	flagPaused              // the first of four: the bits of inbox.Pause, for others to see
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

const (
	maxInt    = int(^uint(0) >> 1)
	maxUint32 = 1<<32 - 1
)

func (s *Session) closed() bool { return s.closing.Load() != 0 }

func (s *Session) String() string { return fmt.Sprintf("session %s (%v)", s.id, s.RemoteAddr()) }

// reading is the loop's side of one session. Loop goroutine only.
type reading struct {
	place    int32 // in loop.sessions
	life     uint8
	paused   inbox.Pause
	waits    bool  // on loop.paused
	lagging  bool  // on loop.lagging
	input    uint8 // what becomes of what is read
	opened   bool  // a whole frame has been seen
	excess   int32 // bytes thrown away
	partial  inbox.Partial
	since    int64 // when it was accepted; later, when its present life began
	heard    int64 // when a whole frame was last seen
	last     int64 // the same, moved on by what idleness does not count
	progress int64 // when the kernel last took a byte of what it had refused; 0: nothing is unsent
	wrote    int64 // since when, to a tick, the peer may owe acknowledgements; 0: it owes none
	looked   tick  // when the kernel was last asked for them
	pinged   tick  // when the last PING went out
}

// tick is a time on the server's clock in 32 bits, for what need not be exact: in steps of
// tickStep, and good for 497 days. An idle session is little more than its times.
type tick uint32

const tickStep = int64(10 * time.Millisecond)

func tickOf(now int64) tick { return tick(now / tickStep) }

// time is when t was, seen from now.
func (t tick) time(now int64) int64 { return now - int64(tickOf(now)-t)*tickStep }

// begunStep is the logarithm of a quarter of a millisecond, in nanoseconds.
const begunStep = 18

// begin notes when partial's first byte came, to a quarter of a millisecond.
func (rd *reading) begin(at int64) { rd.partial.Begun = uint32((at + 1<<(begunStep-1)) >> begunStep) }

// begun is when that was, seen from now; good for six days.
func (rd *reading) begun(now int64) int64 {
	return now - int64(int32(uint32(now>>begunStep)-rd.partial.Begun))<<begunStep
}

// What becomes of what is read.
const (
	inputFrames = iota // as many whole frames as there are go to the strand
	inputSteps         // one by one: each may change the framing
	inputBad           // a bad header was seen: the rest is thrown away
)

// The life of a session, as its loop sees it.
const (
	lifeOpen   = iota
	lifeFin    // the peer has sent its FIN; the descriptor is the engine's own duplicate
	lifeLinger // everything is sent and so is the FIN; input is thrown away until the peer's
	lifeGone   // off the loop
)

// contexts are a session's, made when they are first asked for, and what else few need.
type contexts struct {
	badText           atomic.Pointer[string] // what the ERROR about a bad frame is to say
	session, input    context.Context
	endSession, endIn context.CancelCauseFunc
	changes           changes
}
