// Package outbox holds what sessions have to send. In go frames, from anywhere; out come,
// on the loop, the bytes to be written next, in the order in which they were sent.
//
// A session's own frames stand one behind another on its stage. The frame of a group send
// is held once and referred to; a broadcast stands in the loop's Log, and a session knows
// how far it has had that. What the kernel does not take stays where it is: a peer that
// reads nothing costs its own frames, and nothing for those that it shares with others.
//
// The package knows nothing of sockets. A Box has a lock of its own for those who send;
// what only the loop uses is marked so.
package outbox

import (
	"encoding/binary"
	"math"
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
	"millrace/internal/tally"
)

// Shared is what the boxes of one loop have in common.
type Shared struct {
	Log    Log
	Queued atomic.Int64 // bytes of broadcasts, pushes and group sends that the loop has not yet looked at

	MaxOutbound int // unsent bytes of one session
	MaxQueued   int // Queued
	MaxFrame    int
	Budget      *budget.Budget

	// Share is what one session may hold before it has to wait, in bytes: MaxOutbound, or
	// less while the budget is tight.
	Share *atomic.Int64

	// Loop goroutine only.
	Lent   *bufpool.Buf // the loop's own stage, for inline turns; nil while it is out
	gather []byte
	spare  *taken // for the next box that has something to write
	upTo   uint64 // how far the box that is being looked at may have the log now
	pushed int    // bytes that nobody asked for, taken of the box that is being looked at
}

// Box is one session's outbox. It is small, as every idle session has one.
type Box struct {
	mu     tally.Mutex
	full   atomic.Bool  // too much is unsent: the strand waits before its next packet
	waits  atomic.Bool  // the same for a broadcast that met a full Log
	stage  *bufpool.Buf // guarded by mu; own frames that the loop has not yet taken
	mixed  *mixed       // guarded by mu; what belongs between them; nil: nothing ever did
	at     uint64       // guarded by mu; the log's end when stage and segs were begun
	last   uint64       // guarded by mu; the log's end at the newest of them; of a closed box, at its close
	frames uint64       // guarded by mu; ever sent, without broadcasts

	refs   uint32 // guarded by mu; bytes of the shared frames in segs
	pushed uint32 // guarded by mu; bytes of stage and segs that nobody asked for
	queued uint32 // guarded by mu; what of them counts in Shared.Queued
	rest   uint32 // guarded by mu; bytes that the loop has taken and not written
	lag    uint32 // guarded by mu; bytes of the log that a blocked session has not had
	hint   uint16 // guarded by mu; the size to begin a stage with, learned

	// corked: callbacks of this session run, and what they send leaves with their batch.
	// active is the same, but stays while a callback that blocks has been uncorked.
	corked, active bool // guarded by mu
	dirty          bool // guarded by mu; the loop has been asked to look
	closed         bool // guarded by mu; no more is taken
	writable       bool // guarded by mu; the kernel takes bytes again
	lent           bool // guarded by mu; stage is Shared.Lent

	// Loop goroutine only.
	blocked bool   // the kernel took not all; NotifyWritable will tell
	pos     uint64 // how far the session has had the log
	taken   *taken // nil: nothing
}

// mixed is what a box has beside frames of its own alone. Few have it.
type mixed struct {
	segs    []seg
	keys    *keys  // nil: no push ever had a key
	divided bool   // there is a division in segs
	passed  uint64 // divisions that everything in front of has been written
}

// seg says that ref, a frame that others have too, and then the own frames from off on
// were sent when the log ended at at. ref may be nil, or division.
type seg struct {
	at  uint64
	off int
	ref *bufpool.Buf
}

const (
	segCost  = 32 // about what a seg costs, in bytes: 24, and room to grow
	keepSegs = 8  // how many segs an empty box keeps room for

	// ReferCost is what one session's reference to a shared frame costs.
	ReferCost = segCost
)

// Kind says what a frame is, for the limits.
type Kind uint8

const (
	Answer Kind = iota
	Push        // nobody asked for it
	System      // one for each thing read or done: never refused for being many
)

// Result is what became of a frame.
type Result uint8

const (
	Staged   Result = iota
	Wake            // staged, and the loop must be asked to look
	Closed          // the box is closed
	Full            // the session has MaxOutbound unsent
	LogFull         // the loop has MaxQueued waiting
	NoMemory        // the budget is exceeded, and the session holds its share of it
	Misfit          // the codec can't tell that a frame holds it
	Replaced        // staged in the place of an older push
)

// Open begins a box at the end of its loop's log.
func (o *Box) Open(sh *Shared) { o.pos = sh.Log.End() }

// LeaveLog has the session get nothing of the log. Loop goroutine.
func (o *Box) LeaveLog() { o.pos = math.MaxUint64 }

// Send stages the frame of a packet, whose fields go in registers as a Packet would not.
func (o *Box) Send(sh *Shared, c *codec.Codec, handle, seq uint32, body []byte, kind Kind) Result {
	if !c.FitsFields(handle, seq, len(body)) {
		return Misfit
	}
	n := c.Overhead() + len(body)
	o.mu.Lock()
	if st := o.stage; o.corked && kind == Answer && !o.closed && st != nil && len(st.B) > 0 && st.Spare() >= n &&
		int64(int(o.rest)+len(st.B)+n) < sh.Share.Load() && o.last == sh.Log.End() {
		// One more answer of a callback, and nothing else to see to.
		if c.Plain() {
			at := len(st.B)
			st.B = st.B[:at+n]
			binary.BigEndian.PutUint64(st.B[at:], codec.PlainHeader(handle, len(body)))
			copy(st.B[at+8:], body)
		} else {
			st.B = c.AppendFields(st.B, handle, seq, body)
		}
		o.frames++
		o.mu.Unlock()
		return Staged
	}
	r := o.send(sh, c, handle, seq, body, kind)
	o.mu.Unlock()
	return r
}

// SendFitting is Send for a packet that fits c, which c need not be able to tell.
func (o *Box) SendFitting(sh *Shared, c *codec.Codec, handle, seq uint32, body []byte, kind Kind) Result {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.send(sh, c, handle, seq, body, kind)
}

// send is Send where there is more to see to. mu is held.
func (o *Box) send(sh *Shared, c *codec.Codec, handle, seq uint32, body []byte, kind Kind) Result {
	n := c.Overhead() + len(body)
	if r := o.admit(sh, n, kind); r != Staged {
		return r
	}
	o.reserve(sh, n)
	o.stage.B = c.AppendFields(o.stage.B, handle, seq, body)
	if kind == Push {
		o.count(sh, n, n)
	}
	return o.staged(sh)
}

// SendLast stages a last frame and closes the box: nothing is sent behind it.
func (o *Box) SendLast(sh *Shared, c *codec.Codec, p codec.Packet) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.reserve(sh, c.Overhead()+len(p.Body))
		o.stage.B = c.AppendFields(o.stage.B, p.Handle(), p.Seq, p.Body)
		o.frames++
		o.closed = true
	}
	return o.mark()
}

// Refer stages a frame that others are sent too, without a copy; it is always a push, and
// takes a reference. cost is what it counts in Shared.Queued. skip, which Atomically may
// set, leaves the session out after all.
func (o *Box) Refer(sh *Shared, frame *bufpool.Buf, cost int, skip *bool) Result {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || *skip {
		return Closed
	}
	frame.Retain()
	o.refer(sh, frame)
	o.count(sh, len(frame.B), cost)
	return o.staged(sh)
}

// refer puts a frame behind what is staged. mu is held.
func (o *Box) refer(sh *Shared, frame *bufpool.Buf) {
	end := sh.Log.End()
	if o.stageLen() == 0 && o.segs() == 0 {
		o.at = end
	}
	o.addSeg(sh, seg{end, o.stageLen(), frame})
	o.last = end
	o.refs += uint32(len(frame.B))
}

// Atomically runs fn under the box's lock, so that nothing is sent meanwhile.
func (o *Box) Atomically(fn func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fn()
}

// admit checks the limits for n more bytes. mu is held.
func (o *Box) admit(sh *Shared, n int, kind Kind) Result {
	switch {
	case o.closed:
		return Closed
	case kind == System:
		return Staged
	}
	size := o.size()
	switch limit := sh.MaxOutbound; {
	case o.active:
		if size >= limit && int64(size)+int64(n) > 2*int64(limit)+int64(sh.MaxFrame) {
			return Full
		}
		return Staged
	case size >= limit:
		return Full
	case int64(size) >= sh.Share.Load():
		return NoMemory
	case kind == Push && sh.Queued.Load() >= int64(sh.MaxQueued):
		return LogFull
	}
	return Staged
}

// reserve makes room for n bytes on the stage, and notes where the log stands. mu is held.
func (o *Box) reserve(sh *Shared, n int) {
	switch st := o.stage; {
	case st == nil:
		o.stage = bufpool.Get(max(n, int(o.hint)))
		sh.Budget.Add(o.stage.Held())
	case st.Spare() >= n:
	case o.lent:
		o.disown(sh, n)
	default:
		before := st.Held()
		o.stage = st.Grow(n)
		sh.Budget.Add(o.stage.Held() - before)
	}
	end := sh.Log.End()
	switch {
	case len(o.stage.B) == 0 && o.segs() == 0:
		o.at = end
	case end != o.last:
		o.addSeg(sh, seg{at: end, off: len(o.stage.B)})
	}
	o.last = end
}

// disown replaces the loop's own stage by a copy with room for n more. It is the loop's
// again when the inline turn ends. mu is held, and the loop's goroutine stands still or is
// the caller's.
func (o *Box) disown(sh *Shared, n int) {
	g := bufpool.Get(max(2*len(o.stage.B), len(o.stage.B)+n))
	g.B = append(g.B, o.stage.B...)
	o.stage.Free()
	o.stage, o.lent = g, false
	sh.Budget.Add(g.Held())
}

func (o *Box) addSeg(sh *Shared, g seg) {
	if o.mixed == nil {
		o.mixed = &mixed{}
	}
	o.mixed.segs = append(o.mixed.segs, g)
	sh.Budget.Add(segCost)
}

// count notes bytes that nobody asked for, and what they count in Shared.Queued. mu is held.
func (o *Box) count(sh *Shared, n, cost int) {
	o.pushed += uint32(n)
	o.queued += uint32(cost)
	sh.Queued.Add(int64(cost))
}

// staged sees to it that what has just been staged leaves. mu is held.
func (o *Box) staged(sh *Shared) Result {
	o.frames++
	if int64(o.size()) >= sh.Share.Load() {
		o.full.Store(true)
	}
	if !o.corked && o.mark() {
		return Wake
	}
	return Staged
}

// mark notes that the loop is to look, and tells whether it must be asked. mu is held.
func (o *Box) mark() (wake bool) {
	wake = !o.dirty
	o.dirty = true
	return wake
}

// Cork holds back what callbacks send until Uncork, so that it leaves as one write, and
// tells that callbacks run, whose sends are not refused.
func (o *Box) Cork() {
	o.mu.Lock()
	o.corked, o.active = true, true
	o.mu.Unlock()
}

// Lend is Cork on the loop goroutine, for an inline turn: the loop's own stage is used if
// there is no other.
func (o *Box) Lend(sh *Shared) {
	o.mu.Lock()
	o.corked, o.active = true, true
	if o.stage == nil && sh.Lent != nil {
		o.stage, o.lent, sh.Lent = sh.Lent, true, nil
	}
	o.mu.Unlock()
}

// Uncork lets go what has been staged. still: a callback that blocks goes on.
func (o *Box) Uncork(still bool) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corked = false
	o.active = o.active && still
	return (o.refs > 0 || o.stageLen() > 0) && o.mark()
}

// Close takes no more frames, and has the loop send what there is.
func (o *Box) Close(sh *Shared) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed, o.last = true, sh.Log.End()
	}
	return o.mark()
}

// Nudge has the loop look at the session.
func (o *Box) Nudge() (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mark()
}

// Writable notes that the kernel takes bytes again, and has the loop look.
func (o *Box) Writable() (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writable = true
	return o.mark()
}
