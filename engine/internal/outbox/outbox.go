// Package outbox queues the output of sessions. Any goroutine adds frames; the loop takes the
// bytes to be written next, in the order in which they were sent.
//
// A session's own frames are appended to one buffer, its stage. The frame of a group send is
// held once for all its receivers, which refer to it. Broadcasts are in a Log that all sessions
// of a loop share; each session keeps its position in it. Bytes that the kernel does not take
// stay where they are, so a peer that does not read costs memory for its own frames and none
// for those that it shares with others.
//
// The package does not use sockets. A Box is locked by itself; methods that only the loop's
// goroutine may call say so.
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
	Queued atomic.Int64 // bytes of broadcasts, pushes and group sends that the loop has not yet taken in (Begin)

	MaxOutbound int // limit of the unsent bytes of one session
	MaxQueued   int // limit of Queued
	MaxFrame    int
	Budget      *budget.Budget

	// Share is what one session may hold before it has to wait, in bytes: MaxOutbound, or
	// less while the budget is tight.
	Share *atomic.Int64

	// Loop goroutine only.
	Lent   *bufpool.Buf // the loop's own stage, for inline turns; nil while a Box has it
	gather []byte
	spare  *taken // for the next box that has something to write
	upTo   uint64 // offset up to which the box of the last Begin may be written the log now
	pushed int    // unsolicited bytes taken from that box since
}

// Box is one session's outbox. It is small, as every idle session has one.
type Box struct {
	mu     tally.Mutex
	stage  *bufpool.Buf // guarded by mu; own frames that the loop has not yet taken
	mixed  *mixed       // guarded by mu; shared frames and log positions between them; nil: there never were any
	at     uint64       // guarded by mu; the log's end when stage and segs were begun
	last   uint64       // guarded by mu; the log's end at the newest of them; of a closed box, at its close
	frames uint64       // guarded by mu; ever sent, without broadcasts

	// why the strand must wait before its next packet, as bits; 0: it need not.
	why    atomic.Uint32
	refs   uint32 // guarded by mu; bytes of the shared frames in segs
	pushed uint32 // guarded by mu; unsolicited bytes of stage and segs
	queued uint32 // guarded by mu; bytes that this box counts in Shared.Queued
	rest   uint32 // guarded by mu; bytes that the loop has taken and not written
	lag    uint32 // guarded by mu; bytes of the log that a blocked session has not been written
	hint   uint8  // guarded by mu; the binary logarithm of the size of a new stage, learned from the last one

	// corked: callbacks of this session run, and what they send is written after their batch.
	// active: callbacks run; unlike corked it stays set when Uncork was called for a callback
	// that blocks.
	corked, active bool // guarded by mu
	dirty          bool // guarded by mu; the loop has been asked to flush
	closed         bool // guarded by mu; nothing more is accepted
	writable       bool // guarded by mu; the kernel takes bytes again, and Begin does not know yet
	lent           bool // guarded by mu; stage is Shared.Lent

	// Loop goroutine only.
	blocked bool   // the kernel did not take everything; NotifyWritable has been called
	pos     uint64 // offset in the log up to which the session has been written it
	taken   *taken // what is being written; nil: nothing
}

// mixed is what a box needs if it has more than frames of its own. Few do.
type mixed struct {
	segs    []seg
	keys    *keys  // nil: no push ever had a key
	divided bool   // there is a division in segs
	passed  uint64 // divisions before which everything has been written
}

// seg is a place in the order of what is sent: after the log up to offset at come ref, a frame shared
// with other boxes, and then the own frames from byte off of the stage on. ref may be nil, or
// division.
type seg struct {
	at  uint64
	off int
	ref *bufpool.Buf
}

const (
	segCost  = 32 // about what a seg costs, in bytes: 24, and room to grow
	keepSegs = 8  // how many segs there is room kept for

	// ReferCost is what one session's reference to a shared frame costs.
	ReferCost = segCost
)

// Kind says what a frame is, for the limits.
type Kind uint8

const (
	Answer Kind = iota
	Push        // unsolicited
	System      // at most one for each frame read or action: never refused by a limit
)

// Result is what became of a frame.
type Result uint8

const (
	Staged   Result = iota
	Wake            // staged, and the caller must ask the loop to flush the session
	Closed          // the box is closed
	Full            // the session has MaxOutbound unsent
	LogFull         // the loop has MaxQueued waiting
	NoMemory        // the budget is exceeded, and the session holds its share of it
	Misfit          // the codec can't represent the packet
	Replaced        // staged in the place of an older push with the same key
)

// Open sets a new box's position to the end of its loop's log. Loop goroutine.
func (o *Box) Open(sh *Shared) { o.pos = sh.Log.End() }

// LeaveLog excludes the session from the log's broadcasts for good. Loop goroutine.
func (o *Box) LeaveLog() { o.pos = math.MaxUint64 }

// Send stages the frame of a packet, and copies body. Its fields are parameters, as a Packet would
// not be passed in registers.
func (o *Box) Send(sh *Shared, c *codec.Codec, handle, seq uint32, body []byte, kind Kind) Result {
	if !c.FitsFields(handle, seq, len(body)) {
		return Misfit
	}
	n := c.Overhead() + len(body)
	o.mu.Lock()
	if st := o.stage; o.corked && kind == Answer && !o.closed && st != nil && len(st.B) > 0 && st.Spare() >= n &&
		int64(int(o.rest)+len(st.B)+n) < sh.Share.Load() && o.last == sh.Log.End() {
		// The common case: one more answer of a callback, no limit near, the log unchanged.
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

// SendFitting is Send for a packet that is known to fit c.
func (o *Box) SendFitting(sh *Shared, c *codec.Codec, handle, seq uint32, body []byte, kind Kind) Result {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.send(sh, c, handle, seq, body, kind)
}

// send is the general case of Send. mu is held.
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

// SendLast stages a frame and closes the box, unless it is closed. wake: see Wake.
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

// Refer stages a frame shared with other boxes, without a copy; it is always a push. It takes a
// reference of its own. cost is what the frame counts in Shared.Queued, in bytes. If *skip is true,
// which a function given to Atomically may set, the session is left out.
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

// refer stages a shared frame. mu is held.
func (o *Box) refer(sh *Shared, frame *bufpool.Buf) {
	end := sh.Log.End()
	if o.stageLen() == 0 && o.segs() == 0 {
		o.at = end
	}
	o.addSeg(sh, seg{end, o.stageLen(), frame})
	o.last = end
	o.refs += uint32(len(frame.B))
}

// Atomically runs fn under the box's lock, so that nothing is staged meanwhile. fn must not call the
// box.
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
		o.stage = bufpool.Get(max(n, 1<<o.hint))
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

// disown replaces the loop's own stage by a copy with room for n more bytes, and frees it; the loop
// makes another. mu is held.
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

// count adds n unsolicited bytes, and cost to Shared.Queued. mu is held.
func (o *Box) count(sh *Shared, n, cost int) {
	o.pushed += uint32(n)
	o.queued += uint32(cost)
	sh.Queued.Add(int64(cost))
}

// staged counts a frame that was staged, and returns Wake if the loop must be asked to flush. mu is
// held.
func (o *Box) staged(sh *Shared) Result {
	o.frames++
	if int64(o.size()) >= sh.Share.Load() {
		o.set(full)
	}
	if !o.corked && o.mark() {
		return Wake
	}
	return Staged
}

// mark marks the box dirty, and returns whether it was not, so that the caller must ask the loop. mu
// is held.
func (o *Box) mark() (wake bool) {
	wake = !o.dirty
	o.dirty = true
	return wake
}

// Cork is called before callbacks run: what they send is held back until Uncork, to leave in one
// write, and is accepted beyond MaxOutbound (see admit).
func (o *Box) Cork() {
	o.mu.Lock()
	o.corked, o.active = true, true
	o.mu.Unlock()
}

// Lend is Cork for an inline turn: if the box has no stage it gets the loop's own. Loop goroutine.
func (o *Box) Lend(sh *Shared) {
	o.mu.Lock()
	o.corked, o.active = true, true
	if o.stage == nil && sh.Lent != nil {
		o.stage, o.lent, sh.Lent = sh.Lent, true, nil
	}
	o.mu.Unlock()
}

// Uncork ends Cork. still: it is called for a callback that blocks and goes on running. wake: see
// Wake.
func (o *Box) Uncork(still bool) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corked = false
	o.active = o.active && still
	return (o.refs > 0 || o.stageLen() > 0) && o.mark()
}

// Close ends accepting; what is staged is still sent. wake: see Wake.
func (o *Box) Close(sh *Shared) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed, o.last = true, sh.Log.End()
	}
	return o.mark()
}

// Nudge marks the box to be flushed. wake: see Wake.
func (o *Box) Nudge() (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mark()
}

// Writable notes that the kernel takes bytes again, and marks the box to be flushed. wake: see Wake.
func (o *Box) Writable() (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writable = true
	return o.mark()
}
