package outbox

// Blocked reports whether the kernel did not take everything at the last write. Loop goroutine.
func (o *Box) Blocked() bool { return o.blocked }

// Unblock makes the next Begin try to write without waiting for Writable. Loop goroutine.
func (o *Box) Unblock() { o.blocked = false }

// Pos returns the session's position in the log. Loop goroutine.
func (o *Box) Pos() uint64 { return o.pos }

// Skip moves the session's position in the log to pos, if it is before it: broadcasts up to there
// are not sent. Loop goroutine.
func (o *Box) Skip(pos uint64) { o.pos = max(o.pos, pos) }

// Lagging updates how far a blocked session is behind the log, and returns its unsent unsolicited
// bytes: those pushed, and lag, those of broadcasts, which the Log holds for all. Loop goroutine.
func (o *Box) Lagging(sh *Shared) (pushed, lag int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lag = o.lagNow(sh)
	if int64(o.size()) >= sh.Share.Load() {
		o.set(full)
	}
	if o.taken != nil {
		pushed = o.taken.pushed
	}
	return pushed + int(o.pushed), int(o.lag)
}

// lagNow returns how many bytes of the log, up to its end or that of a closed box, a blocked session
// has not been written; 0 if it is not blocked. mu is held.
func (o *Box) lagNow(sh *Shared) uint32 {
	end := o.end(sh)
	if !o.blocked || o.pos >= end {
		return 0
	}
	return uint32(min(end-o.pos, 1<<31))
}

// Behind reports whether the session still has to be written bytes of the log before end. Loop
// goroutine.
func (o *Box) Behind(end uint64) bool {
	if o.pos >= end {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.closed || o.pos < o.last
}

// Held returns the approximate memory of the box in bytes: what is unsent, and unused capacity. Loop
// goroutine.
func (o *Box) Held() int {
	o.mu.Lock()
	n := o.size() + segCost*o.segs()
	if m := o.mixed; m != nil && m.keys != nil {
		n += m.keys.memory()
	}
	if o.stage != nil && !o.lent {
		n += o.stage.Held() - len(o.stage.B)
	}
	o.mu.Unlock()
	if t := o.taken; t != nil && t.own != nil && !t.lent {
		n += t.own.Held() - len(t.own.Rest())
	}
	return n
}

// Keep makes the strand wait if the unsent bytes, together with kept bytes that were written and not
// yet acknowledged by the peer, reach Share. Loop goroutine.
func (o *Box) Keep(sh *Shared, kept int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if int64(o.size()+kept) >= sh.Share.Load() {
		o.set(full)
	}
}

// Pushed returns how many unsolicited bytes were taken for writing since the last Begin, which must
// have been this box's, and written, without those of the log. Loop goroutine.
func (o *Box) Pushed(sh *Shared) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.taken == nil {
		return sh.pushed
	}
	return max(0, sh.pushed-o.taken.pushed)
}

// Relieve ends the strand's wait (Full) when at most half of Share is used, and reports whether it
// did. kept is as in Keep.
func (o *Box) Relieve(sh *Shared, kept int) (resumed bool) {
	if !o.Full() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if int64(o.size()+kept) > sh.Share.Load()/2 {
		return false
	}
	o.clear(full)
	return true
}

// Full reports whether the strand must wait until more has been sent.
func (o *Box) Full() bool { return o.why.Load()&full != 0 }

// Done reports whether the box is closed and everything in it has been written. Loop goroutine.
func (o *Box) Done() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed && o.taken == nil && o.refs == 0 && o.stageLen() == 0 && o.pos >= o.last
}

// Size returns the unsent bytes.
func (o *Box) Size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size()
}

// Frames returns how many frames have been staged ever, without broadcasts.
func (o *Box) Frames() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.frames
}

// size is Size. mu is held.
func (o *Box) size() int { return int(o.rest) + int(o.refs) + int(o.lag) + o.stageLen() }

// segs returns the number of staged segs. mu is held.
func (o *Box) segs() int {
	if o.mixed == nil {
		return 0
	}
	return len(o.mixed.segs)
}

// stageLen returns the bytes on the stage. mu is held.
func (o *Box) stageLen() int {
	if o.stage == nil {
		return 0
	}
	return len(o.stage.B)
}

// The bits of Box.why.
const (
	full   = 1 << iota // too much is unsent
	behind             // a broadcast of its session met a full Log
)

func (o *Box) set(why uint32) {
	if o.why.Load()&why == 0 {
		o.why.Or(why)
	}
}

func (o *Box) clear(why uint32) {
	if o.why.Load()&why != 0 {
		o.why.And(^why)
	}
}

// MustWait reports whether the strand must wait before its next packet.
func (o *Box) MustWait() bool { return o.why.Load() != 0 }

// WaitForLog makes the strand wait until ResumeFromLog.
func (o *Box) WaitForLog() { o.set(behind) }

// WaitsForLog reports whether WaitForLog was called, and not yet ResumeFromLog.
func (o *Box) WaitsForLog() bool { return o.why.Load()&behind != 0 }

// ResumeFromLog undoes WaitForLog.
func (o *Box) ResumeFromLog() { o.clear(behind) }
