package engine

// takeSegs moves an outbox's segs to the loop's own memory. out.mu is held.
func (l *loop) takeSegs(o *outbox) {
	l.segs = append(l.segs[:0], o.segs...)
	clear(o.segs)
	o.segs = o.segs[:0]
	if cap(o.segs) > keepSegs {
		o.segs = nil
	}
}

// dropSegs gives the groups' frames of the taken segs back.
func (l *loop) dropSegs() {
	for i := range l.segs {
		if f := l.segs[i].ref; f != nil {
			f.drop()
			l.segs[i].ref = nil
		}
	}
}

// gather puts the log's bytes and the groups' frames, refs bytes, between the segments
// of a stage. Without any it returns the stage itself.
func (l *loop) gather(s *Session, stage *buf, at, end uint64, refs, cast int, owned bool) (*buf, int, bool) {
	o := &s.out
	if o.pos >= end && refs == 0 {
		return stage, cast, owned
	}
	if stage == nil && o.pos >= end && len(l.segs) == 1 {
		f := l.segs[0].ref // nothing but it: it is written as it stands, and never kept
		l.segs[0].ref = nil
		return f, cast, true
	}
	var log []byte // from o.pos on
	if o.pos < end {
		l.mu.Lock()
		log = l.log[o.pos-l.logBase : end-l.logBase]
		l.mu.Unlock()
		cast += len(log)
	}
	var own []byte
	if stage != nil {
		own = stage.b
	}
	g := getBuf(len(log) + refs + len(own))
	if stage != nil || refs > 0 {
		g.b = l.between(g.b, log, own, o.pos, at)
	} else {
		g.b = append(g.b, log...)
	}
	o.pos = max(o.pos, end)
	l.dropSegs()
	l.giveBack(stage, owned)
	return g, cast, false
}

// between appends to dst, in the order in which they were sent, the log, the frames of a
// stage and those of groups. The log is given from pos on; at is where it ended before
// the first of the others.
func (l *loop) between(dst, log, own []byte, pos, at uint64) []byte {
	off := 0
	for k := -1; k < len(l.segs); k++ {
		next := len(own)
		var ref *buf
		if k >= 0 {
			at, ref = l.segs[k].at, l.segs[k].ref
		}
		if k+1 < len(l.segs) {
			next = l.segs[k+1].off
		}
		dst = append(dst, log[:at-pos]...)
		if ref != nil {
			dst = append(dst, ref.b...)
		}
		dst = append(dst, own[off:next]...)
		log, pos, off = log[at-pos:], at, next
	}
	return append(dst, log...)
}
