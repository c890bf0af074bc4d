package outbox

import "millrace/engine/internal/bufpool"

// division is the ref of a seg that divides what stands in front of it from what follows. It
// has no bytes, and no references are counted.
var division = &bufpool.Buf{}

// Divide divides what has been staged from what follows: Next gives no bytes of both at once,
// and no push in front is replaced any more. It is for boxes that have left the log. fresh:
// it is one more division; else nothing has been staged since the last one. Of a closed box it
// is one that Divisions never counts, as nothing follows.
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

// Divisions is how many divisions what Next gives stands behind.
func (o *Box) Divisions() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mixed == nil {
		return 0
	}
	return o.mixed.passed
}

// pass notes that all in front of a division has been written. Loop goroutine.
func (o *Box) pass() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mixed.passed++
}
