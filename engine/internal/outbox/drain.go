package outbox

import (
	"math/bits"

	"millrace/engine/internal/bufpool"
)

// taken is what the loop has taken from a box and is writing. Its order: the log up to at and the own
// frames up to the first seg's off; then for each seg the log up to its at, its shared frame, and the
// own frames up to the next seg's off. Loop goroutine.
type taken struct {
	own    *bufpool.Buf // the stage; bytes below Off are written; nil if there are none
	segs   []seg
	at     uint64
	k      int  // index of the seg being written; -1: what comes before the first
	refOff int  // bytes of its frame written so far
	pushed int  // unsolicited bytes
	lent   bool // own is Shared.Lent
	keyed  bool // the box has keys: the frames of segs may change, see keys

	divided bool // there is a division in segs
}

const (
	// maxGather is how many bytes are copied into one buffer for one write.
	maxGather = 256 << 10
	// keyedGather is the same for a box with keys: what is copied can't be replaced any more.
	keyedGather = 64 << 10
)

// Look is why Begin is called.
type Look uint8

const (
	LookAsked  Look = iota // the box was marked to be flushed (Wake)
	LookWalk               // the log has grown, or a PING was answered
	LookInline             // an inline turn ends
)

// Begin begins a flush: it takes what is staged, unless the session is blocked or something taken
// earlier is unwritten. closed: the box is closed; Done reports when everything is written.
// unfinished: something taken earlier is unwritten; after that has been written, Again may take
// more. Loop goroutine.
func (o *Box) Begin(sh *Shared, why Look) (closed, unfinished bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	unfinished = o.taken != nil
	sh.pushed = 0
	switch why {
	case LookAsked:
		o.dirty = false
	case LookInline:
		o.corked, o.active = false, false
	}
	if o.queued > 0 {
		sh.Queued.Add(-int64(o.queued))
		o.queued = 0
	}
	if o.writable {
		o.writable, o.blocked = false, false
	}
	switch {
	case o.taken == nil && !o.blocked:
		o.take(sh)
	case o.lent && len(o.stage.B) == 0:
		sh.Lent, o.stage, o.lent = o.stage, nil, false
	case o.lent:
		o.disown(sh, 0)
	}
	o.reach(sh)
	return o.closed, unfinished
}

// reach sets Shared.upTo, the offset up to which the log may be written: not beyond the log's end
// when the first frame was staged that is not taken yet. mu is held.
func (o *Box) reach(sh *Shared) {
	sh.upTo = o.end(sh)
	if o.stageLen() > 0 || o.segs() > 0 {
		sh.upTo = min(sh.upTo, o.at)
	}
}

// take moves what is staged to the loop. mu is held.
func (o *Box) take(sh *Shared) {
	st := o.stage
	if st == nil && o.segs() == 0 {
		return
	}
	if st != nil && len(st.B) == 0 && o.segs() == 0 {
		o.stage = nil
		o.giveBack(sh, st, o.lent)
		o.lent = false
		return
	}
	if st != nil && !o.lent {
		o.hint = uint8(bits.Len(uint(min(max(len(st.B), 1), 32<<10) - 1)))
	}
	t := sh.spare
	sh.spare = nil
	if t == nil {
		t = &taken{}
	}
	t.own, t.at, t.k, t.refOff, t.pushed, t.lent, t.keyed, t.divided = st, o.at, -1, 0, int(o.pushed), o.lent, false, false
	if m := o.mixed; m != nil {
		t.segs, m.segs = m.segs, t.segs // t.segs is empty, with capacity for some
		t.divided, m.divided = m.divided, false
		if m.keys != nil {
			m.keys.took(len(t.segs))
			t.keyed = true
			o.rest = o.refs + uint32(o.stageLen()) // replace goes on counting
		}
	}
	o.taken = t
	sh.pushed += t.pushed
	o.stage, o.refs, o.pushed, o.lent = nil, 0, 0, false
}

func (o *Box) giveBack(sh *Shared, b *bufpool.Buf, lent bool) {
	if lent {
		b.B, b.Off = b.B[:0], 0
		sh.Lent = b
		return
	}
	sh.Budget.Add(-b.Held())
	b.Free()
}

// end returns the offset up to which the session is to be written the log. mu is held.
func (o *Box) end(sh *Shared) uint64 {
	if o.closed {
		return o.last
	}
	return sh.Log.End()
}

// Next returns the bytes to be written next; none if there are none now. The caller writes what it
// can and then calls Wrote; the bytes are valid until that call. Loop goroutine.
func (o *Box) Next(sh *Shared) []byte {
	if o.blocked {
		return nil
	}
	if o.taken != nil && o.taken.divided {
		if o.taken.keyed {
			o.mu.Lock()
			o.fix(1)
			o.mu.Unlock()
		}
		o.advance(sh, 0) // past divisions before which everything is written
	}
	if t := o.taken; t != nil {
		if len(t.segs) == 0 && o.pos >= t.at && o.pos >= sh.upTo {
			return t.own.Rest()
		}
		if t.keyed {
			return o.collectKeyed(sh)
		}
		return o.collect(sh, maxGather)
	}
	if o.pos >= sh.upTo {
		return nil
	}
	return sh.Log.slice(o.pos, sh.upTo)
}

// collect copies the next pieces into one buffer, up to most bytes. Not copied, but returned as it
// is, is a single shared frame, or a first piece of most bytes or more; the latter not in a box with
// keys, whose frames may be replaced later.
func (o *Box) collect(sh *Shared, most int) []byte {
	t, end := o.taken, sh.upTo
	if t.own == nil && len(t.segs) == 1 && o.pos >= end {
		return t.segs[0].ref.B[t.refOff:]
	}
	var log []byte
	if o.pos < end {
		log = sh.Log.slice(o.pos, end)
	}
	alone := func(g, b []byte) bool { return len(g) == 0 && len(b) >= most && !t.keyed }
	g, pos, refOff, off := sh.gather[:0], o.pos, t.refOff, 0
	if t.own != nil {
		off = t.own.Off
	}
	for k := t.k; k < len(t.segs) && len(g) < most; k++ {
		at, to := t.bounds(k)
		if at > pos {
			if b := log[:at-pos]; alone(g, b) {
				return b
			}
			g = fill(g, log[:at-pos], most)
			log, pos = log[at-pos:], at
		}
		if k >= 0 && t.segs[k].ref != nil {
			if t.segs[k].ref == division && len(g) > 0 {
				break
			}
			if b := t.segs[k].ref.B[refOff:]; alone(g, b) {
				return b
			}
			g = fill(g, t.segs[k].ref.B[refOff:], most)
		}
		refOff = 0
		if to > off {
			if b := t.own.B[off:to]; alone(g, b) {
				return b
			}
			g = fill(g, t.own.B[off:to], most)
			off = to
		}
		if k == len(t.segs)-1 {
			if alone(g, log) {
				return log
			}
			g = fill(g, log, most)
		}
	}
	sh.gather = g[:0]
	return g
}

// fill appends b, up to a total of most bytes.
func fill(g, b []byte, most int) []byte { return append(g, b[:min(len(b), most-len(g))]...) }

// bounds returns up to which offset of the log, and which byte of the own frames, step k goes.
func (t *taken) bounds(k int) (at uint64, to int) {
	at = t.at
	if k >= 0 {
		at = t.segs[k].at
	}
	if k+1 < len(t.segs) {
		return at, t.segs[k+1].off
	}
	if t.own == nil {
		return at, 0
	}
	return at, len(t.own.B)
}

// Wrote is called when n of the bytes that Next returned have been written; all: those were all, and
// the session is not blocked. Loop goroutine.
func (o *Box) Wrote(sh *Shared, n int, all bool) {
	keyed := false
	if o.taken != nil {
		keyed = o.taken.keyed
		n = o.advance(sh, n)
	}
	if o.taken == nil {
		o.pos += uint64(n)
	}
	o.blocked = !all
	if keyed || !all || o.rest > 0 || o.lag > 0 { // only the loop changes rest and lag, except for keyed pushes
		o.settle(sh)
	}
}

// advance moves through what is taken by n written bytes, and returns the remainder of n: bytes of
// the log after everything that was taken.
func (o *Box) advance(sh *Shared, n int) int {
	t := o.taken
	for {
		at, to := t.bounds(t.k)
		if at > o.pos {
			m := min(n, int(at-o.pos))
			o.pos += uint64(m)
			if n -= m; o.pos < at {
				return 0
			}
		}
		if t.k >= 0 && t.segs[t.k].ref != nil {
			ref := t.segs[t.k].ref
			m := min(n, len(ref.B)-t.refOff)
			t.refOff += m
			if n -= m; t.refOff < len(ref.B) {
				return 0
			}
			t.segs[t.k].ref = nil
			t.refOff = 0
			if ref == division {
				o.pass()
			} else if held, last := ref.Release(); last {
				sh.Budget.Add(-held)
			}
		}
		if t.own != nil && t.own.Off < to {
			m := min(n, to-t.own.Off)
			t.own.Off += m
			if n -= m; t.own.Off < to {
				return 0
			}
		}
		if t.k++; t.k >= len(t.segs) {
			o.finish(sh)
			return n
		}
	}
}

// finish frees what was taken, when it is written.
func (o *Box) finish(sh *Shared) {
	t := o.taken
	if t.own != nil {
		o.giveBack(sh, t.own, t.lent)
	}
	o.freeSegs(sh)
	o.taken = nil
	if sh.spare == nil {
		room := t.segs
		if cap(room) > keepSegs {
			room = nil
		}
		*t = taken{segs: room}
		sh.spare = t
	}
}

// freeSegs frees the segs of what was taken. The slice stays with the loop, and take exchanges it
// for that of the next box that has segs: so the lock is needed only for keys.
func (o *Box) freeSegs(sh *Shared) {
	t := o.taken
	n := len(t.segs)
	if n == 0 {
		return
	}
	sh.Budget.Add(-segCost * n)
	clear(t.segs)
	t.segs = t.segs[:0]
	if !t.keyed {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if m := o.mixed; m.keys != nil && len(m.segs) == 0 {
		m.keys.clear(sh)
	}
}

// settle updates rest and lag, and which pushes can be replaced. After a write that did not take all
// bytes that is up to Loosen.
func (o *Box) settle(sh *Shared) {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := 0
	if t := o.taken; t != nil {
		for i := max(t.k, 0); i < len(t.segs); i++ {
			if r := t.segs[i].ref; r != nil {
				left += len(r.B)
			}
		}
		left -= t.refOff
		if t.own != nil {
			left += len(t.own.B) - t.own.Off
			o.shrink(sh)
		}
		t.pushed = min(t.pushed, left)
		if t.keyed && !o.blocked {
			o.fix(0) // what begins where the write ended can be replaced until Next
		}
	}
	o.rest = uint32(left)
	o.lag = o.lagNow(sh)
}

// shrink copies the unwritten own frames to a smaller buffer if they fill less than a quarter of
// their memory, or if that is the loop's own: so a blocked session holds memory in proportion to what
// is unsent.
func (o *Box) shrink(sh *Shared) {
	t := o.taken
	rest := t.own.Rest()
	if !t.lent && len(rest) >= cap(t.own.B)/4 {
		return
	}
	g := bufpool.Get(len(rest))
	g.B = append(g.B, rest...)
	sh.Budget.Add(g.Held())
	for i := range t.segs {
		t.segs[i].off -= t.own.Off
	}
	o.giveBack(sh, t.own, t.lent)
	t.own, t.lent = g, false
}

// Again takes what was staged since Begin, after all that Begin took has been written, and reports
// whether there was any. Loop goroutine.
func (o *Box) Again(sh *Shared) bool {
	if o.blocked || o.taken != nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refs == 0 && o.stageLen() == 0 || o.corked && !o.closed {
		return false
	}
	o.take(sh)
	o.reach(sh)
	return o.taken != nil
}
