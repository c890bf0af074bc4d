package outbox

// Rest returns a copy of the next n bytes to be written, which then count as written, for a caller
// that must complete a message or record that it has begun; nil if there are fewer. Only Drop may
// be called afterwards. Loop goroutine.
func (o *Box) Rest(sh *Shared, n int) []byte {
	o.blocked = false
	o.Begin(sh, LookWalk)
	b := make([]byte, 0, n)
	for len(b) < n {
		next := o.Next(sh)
		if len(next) == 0 && !o.Again(sh) {
			return nil
		}
		m := min(len(next), n-len(b))
		b = append(b, next[:m]...)
		o.Wrote(sh, m, true)
	}
	return b
}

// Drop closes the box, frees everything, and returns how many bytes were not sent; bytes of the log
// count if the session was blocked. Loop goroutine.
func (o *Box) Drop(sh *Shared) (lost int) {
	o.mu.Lock()
	if !o.closed {
		o.closed, o.last = true, sh.Log.End()
	}
	o.lag = o.lagNow(sh)
	lost = o.size()
	if o.queued > 0 {
		sh.Queued.Add(-int64(o.queued))
		o.queued = 0
	}
	first := o.taken
	o.taken = nil
	o.take(sh)
	second := o.taken
	o.taken = nil
	o.rest, o.lag = 0, 0
	if m := o.mixed; m != nil && m.keys != nil {
		sh.Budget.Add(-m.keys.memory())
		m.keys = nil
	}
	o.clear(full)
	o.mu.Unlock()
	for _, t := range [2]*taken{first, second} {
		if t == nil {
			continue
		}
		if t.own != nil {
			o.giveBack(sh, t.own, t.lent)
		}
		sh.Budget.Add(-segCost * len(t.segs))
		for _, g := range t.segs {
			if g.ref != nil && g.ref != division {
				if held, last := g.ref.Release(); last {
					sh.Budget.Add(-held)
				}
			}
		}
	}
	return lost
}
