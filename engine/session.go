package engine

import (
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"millrace/codec"
)

// Session is one connection. Its methods may be called from any goroutine unless they
// say otherwise, and stay safe after it has closed.
type Session struct {
	srv      *Server
	loop     *loop
	id       ID
	wire     wire     // loop goroutine only
	remote   net.Addr // never changes
	accepted int64    // unix nanoseconds
	value    any      // strand only

	closing atomic.Uint32 // Reason, once; set before the strand learns of it
	held    atomic.Int32  // answers owed
	ends    atomic.Int32  // 2: strand and loop live; 0: the slot is free

	in  strand
	out outbox
	rd  reading // loop goroutine only

	framesIn          atomic.Uint64
	bytesIn, bytesOut atomic.Uint64

	groups []*Group // guarded by srv.groups.mu
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
func (s *Session) RemoteAddr() net.Addr { return s.remote }

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
	Unsent              int    // bytes staged or refused by the kernel
	Pending             int    // bytes read and not yet handled
}

// Stats returns a snapshot.
func (s *Session) Stats() SessionStats {
	return SessionStats{
		FramesIn: s.framesIn.Load(), FramesOut: s.out.framesSent(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Unsent: s.out.unsentBytes(), Pending: s.in.pendingBytes(),
	}
}

// Send sends a packet to the peer, as an answer. From the session's own callbacks it is
// not refused for being many: past MaxOutbound unsent bytes the strand waits, before its
// next packet, for the peer to read; one callback may leave MaxOutbound more. From
// elsewhere it is ErrBusy past MaxOutbound. ErrClosed once the session has gone,
// ErrFrameTooLarge for a body over MaxFrame. The body is copied.
func (s *Session) Send(main, sub uint16, body []byte) error {
	return s.send(codec.Packet{Main: main, Sub: sub, Body: body}, sendAnswer)
}

// SendPacket is Send for a packet, whose Seq goes with it where the layout has one.
func (s *Session) SendPacket(p codec.Packet) error { return s.send(p, sendAnswer) }

// Push sends what the peer has not asked for. A peer that leaves MaxOutbound bytes
// of it unread is closed with ReasonSlowConsumer. Errors are Send's.
func (s *Session) Push(main, sub uint16, body []byte) error {
	return s.send(codec.Packet{Main: main, Sub: sub, Body: body}, sendPush)
}

// Reply answers p: its handle, its Seq, this body. Errors are Send's.
func (s *Session) Reply(p codec.Packet, body []byte) error {
	return s.send(codec.Packet{Main: p.Main, Sub: p.Sub, Seq: p.Seq, Body: body}, sendAnswer)
}

// Error answers p with an ERROR frame, whose text is cut to what a frame holds. Without system frames there is no such frame:
// then the session closes with ReasonRefused.
func (s *Session) Error(p codec.Packet, code ErrorCode, text string) error {
	if s.srv.cfg.NoSystemFrames {
		s.beginClose(ReasonRefused)
		return nil
	}
	err := s.send(s.srv.errorPacket(p, code, text), sendAnswer)
	if err == nil {
		s.srv.errors.Add(1)
	}
	return err
}

// Hold notes that an answer is owed which will come later, from outside the callback:
// until Release the session's timeouts stand still, and a FIN or a drain waits for it.
func (s *Session) Hold() { s.held.Add(1) }

// Release undoes one Hold, after the answer has been sent.
func (s *Session) Release() {
	n := s.held.Add(-1)
	if n < 0 {
		panic("engine: Release without Hold")
	}
	if n == 0 && s.in.finished() {
		s.settle()
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

// beginClose closes the session for a reason, once. It may be called from anywhere.
func (s *Session) beginClose(why Reason) bool {
	if !s.closing.CompareAndSwap(0, uint32(why)) {
		return false
	}
	s.srv.closes[why].Add(1)
	s.srv.groups.leaveAll(s)
	s.out.close(s)
	s.in.wake(s)
	return true
}

// end is called by the strand when OnSocketClose has returned, and by the loop when the
// descriptor is closed; after both the slot is free.
func (s *Session) end() {
	if s.ends.Add(-1) == 0 {
		s.srv.release(s)
	}
}

func (s *Session) String() string { return fmt.Sprintf("session %s (%v)", s.id, s.remote) }
