package engine

import (
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

// Session is one connection. Its methods may be called from any goroutine unless stated otherwise,
// and remain safe after it has closed.
type Session struct {
	srv      *Server
	loop     *loop
	id       ID
	conn     netio.Conn
	framing  atomic.Pointer[framing]
	accepted int64 // unix nanoseconds
	value    any   // used on the strand only

	closing atomic.Uint32 // Reason, once; set before the strand learns of it
	held    atomic.Int32  // pending answers
	ends    atomic.Int32  // 2 while strand and loop use it; 0 when the slot is free
	flags   flags
	step    atomic.Uint32 // progress of a worker's turn
	handle  atomic.Uint32 // handle of the running packet; stored only if it differs
	goAway  atomic.Uint32 // milliseconds from the drain's begin to its GOAWAY, plus 1; 0 if not sent
	unacked int32         // bytes written and not acknowledged at the last check; loop goroutine only
	extra   atomic.Pointer[extra]

	task  sched.Task
	in    strand.Strand
	out   outbox.Box
	dirty *Session // next in the loop's dirty list; guarded by the loop's mu
	rd    reading  // loop goroutine only

	framesIn          atomic.Uint64
	bytesIn, bytesOut atomic.Uint64

	groups *membership // guarded by srv.groups.mu; a list
}

// line returns the session's connection if it can be resumed; nil otherwise.
func (s *Session) line() *line {
	ln, _ := s.conn.(*line)
	return ln
}

// ID returns the session's ID, which is unique for all time.
func (s *Session) ID() ID { return s.id }

// Index returns the session's slot.
func (s *Session) Index() uint32 { return s.id.Index() }

// Round returns the slot's round.
func (s *Session) Round() uint32 { return s.id.Round() }

// Server returns the session's server.
func (s *Session) Server() *Server { return s.srv }

// Logger returns the server's logger with the session's ID as an attribute.
func (s *Session) Logger() *slog.Logger { return s.srv.cfg.Logger.With("session", s.id.String()) }

// Connected reports whether the session has not begun to close.
func (s *Session) Connected() bool { return s.closing.Load() == 0 }

// RemoteAddr returns the peer's address, also after close. Each call may return a new value: compare
// addresses by their String.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// LocalAddr returns the address that the peer connected to, also after close.
func (s *Session) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// SyscallConn gives access to the connection's descriptor, for socket options, while it is open. Do
// not read from it or write to it.
func (s *Session) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// ConnectedAt returns when the connection was accepted.
func (s *Session) ConnectedAt() time.Time { return time.Unix(0, s.accepted) }

// Value returns the value of SetValue: the user's state. On the strand only.
func (s *Session) Value() any { return s.value }

// SetValue stores v until the session ends. On the strand only.
func (s *Session) SetValue(v any) { s.value = v }

// SessionStats are the statistics of one session.
type SessionStats struct {
	FramesIn, FramesOut uint64 // complete frames, including system frames; broadcasts are counted by the server
	BytesIn, BytesOut   uint64 // as read from and written to the socket
	Unsent              int    // bytes that the kernel has not accepted
	Conflated           uint64 // keyed pushes not sent because a newer one replaced them
	Pending             int    // memory of the requests waiting or running, in bytes
	Tasks               int    // functions of Submit that wait
	Groups              int    // groups that it is in
	Kept                int    // bytes sent and not acknowledged, if the session can be resumed
	Paused              Pause  // why reading is paused

	// 0 without Config.Costs and SessionCPU.
	Busy   time.Duration // time of its callbacks, and of writes to it
	Waited time.Duration // time that its requests waited for a worker, including current waits
}

// Stats returns a snapshot.
func (s *Session) Stats() SessionStats {
	st := SessionStats{
		FramesIn: s.framesIn.Load(), FramesOut: s.out.Frames(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Unsent: s.out.Size(), Pending: s.in.Held(maxInt), Paused: s.pausedFor(), Conflated: s.out.Replaced(),
	}
	st.Tasks = s.in.Tasks()
	if s.flags.has(flagGrouped) {
		st.Groups = s.srv.groups.count(s)
	}
	if ln := s.line(); ln != nil {
		ln.mu.Lock()
		st.Kept = ln.ring.Bytes()
		ln.mu.Unlock()
	}
	if m := s.meter(); m != nil && m.cost.costs.on {
		st.Busy, st.Waited = time.Duration(m.cost.spent.Load()), m.waits(s.srv.now())
	}
	return st
}

// flags are states of a session, as bits that any goroutine may set.
type flags struct{ bits atomic.Uint32 }

const (
	flagOpened  = 1 << iota // OnSocketAccept has been called, and OnSocketClose not yet
	flagOver                // the strand has handled the peer's last request
	flagFin                 // the peer's FIN has been handled, or comes next
	flagGrouped             // it has been in a group
	flagLong                // the pool's monitor has found the turn long
	flagMore                // the block being handled has more frames
	flagOther               // it is one of Server.others; set before it has a slot
	flagStep                // a frame is being handled after which the framing may change
	flagStepFin             // the peer's FIN was received meanwhile
	flagAway                // its connection was lost, and it waits to be resumed
	flagStill               // its strand stands still, as the session is on its way to another server, or from one
	flagPaused              // the first of four: the bits of inbox.Pause, for other goroutines
)

func (f *flags) has(bit uint32) bool { return f.bits.Load()&bit != 0 }

// set sets a bit, and reports whether it was not set before.
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
	place    int32 // index in loop.sessions
	life     uint8
	paused   inbox.Pause
	waits    bool  // on loop.paused
	lagging  bool  // on loop.lagging
	input    uint8 // how input is processed
	opened   bool  // a complete frame has been received
	deaf     bool  // the peer has closed, and what is sent is dropped
	excess   int32 // bytes discarded
	partial  inbox.Partial
	since    int64 // when it was accepted; later, when its present life state began
	heard    int64 // when a complete frame was last received
	last     int64 // the same, advanced by times that don't count as idle
	progress mark  // when the peer last took something, as far as is known, while something is unsent; 0 if nothing is
	wrote    mark  // since when, to the server's tick, acknowledgements may be missing; 0 if none
	looked   tick  // when the kernel was last queried for them
	pinged   tick  // when the last PING was sent
}

// How input is processed.
const (
	inputFrames = iota // all complete frames go to the strand
	inputSteps         // frames go one by one: each may change the framing
	inputBad           // a bad header was received: the rest is discarded
)

// The life states of a session on its loop.
const (
	lifeOpen   = iota
	lifeFin    // the peer has sent its FIN; the descriptor is the engine's own duplicate
	lifeLinger // everything and the FIN are sent; input is discarded until the peer's FIN
	lifeGone   // removed from the loop
)
