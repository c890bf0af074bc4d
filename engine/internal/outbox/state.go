package outbox

// Blocked tells whether the kernel has not taken everything. Loop goroutine.
func (o *Box) Blocked() bool { return o.blocked }

// Unblock has the next look write although nobody said that the kernel takes bytes. Loop
// goroutine.
func (o *Box) Unblock() { o.blocked = false }

// Pos is how far the session has had the log. Loop goroutine.
func (o *Box) Pos() uint64 { return o.pos }

// Skip has the session get nothing of the log in front of pos. Loop goroutine.
func (o *Box) Skip(pos uint64) { o.pos = max(o.pos, pos) }

// Lagging notes how far a blocked session is behind, and returns how many of its unsent
// bytes it has not asked for: lag of them of the log, which all have together, and pushed
// for itself. Loop goroutine.
func (o *Box) Lagging(sh *Shared) (pushed, lag int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lag = o.lagNow(sh)
	if int64(o.size()) >= sh.Share.Load() {
		o.full.Store(true)
	}
	if o.taken != nil {
		pushed = o.taken.pushed
	}
	return pushed + int(o.pushed), int(o.lag)
}

// lagNow is how many bytes of the log, up to its end or the session's, are not written.
// mu is held.
func (o *Box) lagNow(sh *Shared) uint32 {
	end := o.end(sh)
	if !o.blocked || o.pos >= end {
		return 0
	}
	return uint32(min(end-o.pos, 1<<31))
}

// Behind tells whether the session has still to have the log up to end. Loop goroutine.
func (o *Box) Behind(end uint64) bool {
	if o.pos >= end {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.closed || o.pos < o.last
}

// Held is about how much memory the box holds: what is unsent, and the room behind it. Loop
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

// Keep has the strand wait if kept bytes, which were written and count until the peer has
// acknowledged them, are too many with those that are unsent. Loop goroutine.
func (o *Box) Keep(sh *Shared, kept int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if int64(o.size()+kept) >= sh.Share.Load() {
		o.full.Store(true)
	}
}

// Pushed is how many bytes that nobody asked for were taken, to be written, since the last
// Begin, which was this box's; of the log none. Loop goroutine.
func (o *Box) Pushed(sh *Shared) int { return sh.pushed }

// Relieve lets the strand go on if half of what it may hold is free again, and tells so.
// kept is Keep's.
func (o *Box) Relieve(sh *Shared, kept int) (resumed bool) {
	if !o.full.Load() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if int64(o.size()+kept) > sh.Share.Load()/2 {
		return false
	}
	o.full.Store(false)
	return true
}

// Full tells whether the strand has to wait until more has been sent.
func (o *Box) Full() bool { return o.full.Load() }

// Done tells whether everything that a closed box had has been written. Loop goroutine.
func (o *Box) Done() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed && o.taken == nil && o.refs == 0 && o.stageLen() == 0 && o.pos >= o.last
}

// Size is how many bytes are unsent.
func (o *Box) Size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size()
}

// Frames is how many frames have been sent, without broadcasts.
func (o *Box) Frames() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.frames
}

// size is what is unsent, in bytes. mu is held.
func (o *Box) size() int { return int(o.rest) + int(o.refs) + int(o.lag) + o.stageLen() }

// segs is how many there are. mu is held.
func (o *Box) segs() int {
	if o.mixed == nil {
		return 0
	}
	return len(o.mixed.segs)
}

// stageLen is how long the stage is. mu is held.
func (o *Box) stageLen() int {
	if o.stage == nil {
		return 0
	}
	return len(o.stage.B)
}

// MustWait tells whether the strand has to wait before its next packet.
func (o *Box) MustWait() bool { return o.full.Load() || o.waits.Load() }

// WaitForLog has the strand wait until ResumeFromLog.
func (o *Box) WaitForLog() { o.waits.Store(true) }

// WaitsForLog tells whether WaitForLog was called.
func (o *Box) WaitsForLog() bool { return o.waits.Load() }

// ResumeFromLog undoes WaitForLog.
func (o *Box) ResumeFromLog() { o.waits.Store(false) }
