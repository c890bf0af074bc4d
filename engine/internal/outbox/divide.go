package outbox

import "millrace/engine/internal/bufpool"

// division is the ref of a seg that separates what was sent before it from what follows. It has no
// bytes and no reference count.
var division = &bufpool.Buf{}

// Divide separates what has been staged from what follows: Next returns no bytes of both at once,
// and pushes staged before it are not replaced any more. It is for boxes that have left the log
// (LeaveLog). fresh: a division was added; false if nothing has been staged since the last one. In a
// closed box nothing is added, and fresh is true.
func (o *Box) Divide(sh *Shared) (fresh bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return true
	}
	if m := o.mixed; m != nil {
		if m.keys != nil {
			m.keys.clear(sh)
		}
		if n := len(m.segs); n > 0 && m.segs[n-1].ref == division && m.segs[n-1].off == o.stageLen() {
			return false
		}
	}
	o.refer(sh, division)
	o.mixed.divided = true
	return true
}

// Divisions returns before how many divisions everything has been written. Any goroutine.
func (o *Box) Divisions() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mixed == nil {
		return 0
	}
	return o.mixed.passed
}

// pass counts a division before which everything has been written. Loop goroutine.
func (o *Box) pass() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mixed.passed++
}
