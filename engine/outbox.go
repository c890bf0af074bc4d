package engine

import (
	"sync"
	"sync/atomic"

	"millrace/codec"
)

// outbox is what a session has to send. Senders append frames to stage; the loop takes
// it, adds the broadcasts of its log where they belong, and writes it with one write.
// What the kernel refuses hangs on the unsent chain.
type outbox struct {
	mu     sync.Mutex
	stage  *buf   // guarded by mu; frames not yet taken by the loop
	frames uint64 // guarded by mu; ever sent
	at     uint64 // guarded by mu; the log's end when stage was begun
	last   uint64 // guarded by mu; the log's end at the newest of stage's frames
	segs   []seg  // guarded by mu; where in stage the log had grown, or a group's frame belongs
	refs   int    // guarded by mu; bytes of groups' frames in segs
	cast   int    // guarded by mu; bytes of stage and segs that nobody asked for
	charge int    // guarded by mu; what they count in the loop's outbox
	unsent int    // guarded by mu; bytes on the chain
	endAt  uint64 // guarded by mu; the log's end at close
	hint   uint16 // guarded by mu; size to begin a stage with, learned
	// corked: a callback of this session runs and what it sends leaves with its batch.
	// active is the same, but stays while a blocked callback has been uncorked.
	corked, active bool // guarded by mu
	dirty          bool // guarded by mu; on the loop's dirty list, or lent by the loop
	closed         bool // guarded by mu; no more sends
	writable       bool // guarded by mu; the kernel takes bytes again
	owned          bool // guarded by mu; stage is the loop's own buffer

	full  atomic.Bool // stage and chain hold MaxOutbound bytes
	waits atomic.Bool // a broadcast of this session met a full loop outbox

	next *Session // the dirty list's link; guarded by the loop's mu

	// Loop goroutine only.
	head, tail *buf   // the chain
	pos        uint64 // how far this session has had the log
	pushed     int    // bytes of the chain that nobody asked for
	blocked    bool   // the kernel refused bytes; the watcher will tell
}

// seg says that ref, a group's frame that all members share, and then the frames of stage
// from off on were sent when the log ended at at. ref may be nil.
type seg struct {
	at  uint64
	off int
	ref *buf
}

// segCost is what a member's seg counts in its loop's outbox: about its memory.
const segCost = 32

// keepSegs is how many segs an outbox keeps room for.
const keepSegs = 8

func (o *outbox) framesSent() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.frames
}

func (o *outbox) unsentBytes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size()
}

// size is what waits. mu is held.
func (o *outbox) size() int {
	return o.unsent + o.refs + o.stageLen()
}

// stageLen is how long the stage is. mu is held.
func (o *outbox) stageLen() int {
	if o.stage == nil {
		return 0
	}
	return len(o.stage.b)
}

// What a frame is, for the limits.
type sendKind uint8

const (
	sendAnswer sendKind = iota
	sendPush            // nobody asked for it
	sendSystem          // the engine's own: one for each thing read or done, never refused for being many
)

// send appends a packet's frame to the session's stage.
func (s *Session) send(p codec.Packet, kind sendKind) error {
	c := s.srv.codec
	if len(p.Body) > c.MaxBody() && (p.Main != SystemMain || len(p.Body) > errorFixed) {
		return ErrFrameTooLarge
	}
	n := c.Overhead() + len(p.Body)
	o := &s.out
	o.mu.Lock()
	if st := o.stage; o.corked && kind == sendAnswer && !o.closed && st != nil && len(st.b) > 0 && cap(st.b)-len(st.b) >= n &&
		o.unsent+len(st.b)+n < s.srv.cfg.MaxOutbound && o.last == s.loop.logEnd.Load() {
		// One more answer of a callback, and nothing else to see to.
		st.b = c.Append(st.b, p)
		o.frames++
		o.mu.Unlock()
		return nil
	}
	if err := s.admit(n, kind); err != nil {
		o.mu.Unlock()
		return err
	}
	s.reserve(n)
	o.stage.b = c.Append(o.stage.b, p)
	if kind != sendPush {
		return s.staged(0, 0)
	}
	return s.staged(n, n)
}

// share sends a frame that other sessions are sent too, without a copy; it is always a
// push. cost is what it counts in the loop's outbox.
func (s *Session) share(frame *buf, cost int) error {
	o := &s.out
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return ErrClosed
	}
	frame.refs.Add(1)
	end := s.loop.logEnd.Load()
	off := o.stageLen()
	if off == 0 && len(o.segs) == 0 {
		o.at = end
	}
	o.segs = append(o.segs, seg{end, off, frame})
	o.last = end
	o.refs += len(frame.b)
	return s.staged(len(frame.b), cost)
}

// admit checks the limits for n more bytes. out.mu is held.
func (s *Session) admit(n int, kind sendKind) error {
	o := &s.out
	if o.closed {
		s.srv.stale.Add(1)
		return ErrClosed
	}
	if kind == sendSystem {
		return nil
	}
	limit := s.srv.cfg.MaxOutbound
	if size := o.size(); size >= limit && (!o.active || size+n > 2*limit+s.srv.cfg.MaxFrame) {
		s.srv.busy.Add(1)
		return ErrBusy
	}
	if kind == sendPush && !o.active && s.loop.queued.Load() >= int64(s.srv.cfg.MaxOutbox) {
		s.srv.busy.Add(1)
		return ErrBusy
	}
	return nil
}

// reserve makes room for n bytes on the stage, and notes where the log stands. out.mu is held.
func (s *Session) reserve(n int) {
	o := &s.out
	end := s.loop.logEnd.Load()
	if o.stage == nil {
		o.stage = getBuf(max(n, int(o.hint)))
	} else if o.owned && cap(o.stage.b)-len(o.stage.b) < n {
		o.stage, o.owned = disown(o.stage, n), false
	} else {
		o.stage = o.stage.room(n)
	}
	switch {
	case len(o.stage.b) == 0 && len(o.segs) == 0:
		o.at = end
	case end != o.last:
		o.segs = append(o.segs, seg{at: end, off: len(o.stage.b)})
	}
	o.last = end
}

// disown copies what stands in the loop's own buffer to a pooled one with room for n more.
func disown(b *buf, n int) *buf {
	g := getBuf(2*cap(b.b) + n)
	g.b = append(g.b, b.b...)
	b.free()
	return g
}

// staged sees to it that a frame just appended leaves. cast of its bytes were not asked
// for, and count as cost in the loop's outbox. It unlocks out.mu.
func (s *Session) staged(cast, cost int) error {
	o := &s.out
	if cast > 0 {
		o.cast += cast
		o.charge += cost
		s.loop.queued.Add(int64(cost))
	}
	if o.size() >= s.srv.cfg.MaxOutbound {
		o.full.Store(true)
	}
	wake := !o.corked && !o.dirty
	if wake {
		o.dirty = true
	}
	o.frames++
	o.mu.Unlock()
	if wake {
		s.loop.markDirty(s)
	}
	return nil
}

// cork holds back what callbacks send until uncork: it leaves as one write. It also
// tells that callbacks run, whose sends are not refused.
func (o *outbox) cork() {
	o.mu.Lock()
	o.corked, o.active = true, true
	o.mu.Unlock()
}

// uncork lets go what has been staged. The strand calls it at the end of a batch, and
// the pool's monitor while a callback blocks.
func (s *Session) uncork() { s.release(false) }

func (s *Session) release(still bool) {
	o := &s.out
	o.mu.Lock()
	o.corked = false
	o.active = o.active && still
	wake := o.refs+o.stageLen() > 0 && !o.dirty
	if wake {
		o.dirty = true
	}
	o.mu.Unlock()
	if wake {
		s.loop.markDirty(s)
	}
}

// flushBlocked sends what a callback that blocks has staged so far.
func (s *Session) flushBlocked() { s.release(true) }

// close refuses further sends and has the loop finish the session.
func (o *outbox) close(s *Session) {
	o.mu.Lock()
	o.closed = true
	o.endAt = s.loop.logEnd.Load()
	wake := !o.dirty
	o.dirty = true
	o.mu.Unlock()
	if wake {
		s.loop.markDirty(s)
	}
}

// kick has the loop look at the session: at what it may send, and whether to read again.
func (s *Session) kick() {
	o := &s.out
	o.mu.Lock()
	wake := !o.dirty
	o.dirty = true
	o.mu.Unlock()
	if wake {
		s.loop.markDirty(s)
	}
}

// canWrite is called by the watcher when the kernel takes bytes again.
func (s *Session) canWrite() {
	s.out.mu.Lock()
	s.out.writable = true
	s.out.mu.Unlock()
	s.kick()
}
