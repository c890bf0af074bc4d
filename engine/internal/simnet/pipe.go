package simnet

import "time"

// pipe is one direction of a connection: what is on its way, and what the receiver's kernel
// holds. Guarded by Net.mu.
type pipe struct {
	queue  []segment
	bytes  int    // in queue: what the receiver's kernel has not acknowledged
	ready  []byte // has arrived and is not read
	room   int    // what ready holds at most
	rate   int    // bytes a second that are carried; 0: any number
	last   time.Time
	acked  time.Time // when something arrived last
	ended  bool      // a FIN or a reset is in queue, or was: nothing goes behind it
	fin    bool      // the FIN has arrived
	rst    bool      // a reset has
	silent bool      // nothing arrives any more, and nobody says so
}

// segment is a piece on its way.
type segment struct {
	at       time.Time // it arrives then, if there is room
	b        []byte
	fin, rst bool
}

// piece is how much at most arrives at once where the rate is limited, in bytes.
const piece = 4 << 10

// put sends a segment that takes so long, or as long as the one in front of it.
func (p *pipe) put(s segment, takes time.Duration) {
	for p.rate > 0 && len(s.b) > piece {
		p.put(segment{b: s.b[:piece]}, takes)
		s.b = s.b[piece:]
	}
	if p.ended {
		return
	}
	now := time.Now()
	if p.bytes == 0 {
		p.acked = now // from now on something is owed
	}
	s.at = now.Add(takes)
	if s.at.Before(p.last) {
		s.at = p.last
	}
	if p.rate > 0 {
		s.at = s.at.Add(time.Duration(len(s.b)) * time.Second / time.Duration(p.rate))
	}
	p.last = s.at
	p.ended = s.fin || s.rst
	p.bytes += len(s.b)
	p.queue = append(p.queue, s)
}

// settle has arrive what is due. It tells whether anything did.
func (p *pipe) settle(now time.Time) (some bool) {
	for !p.silent && len(p.queue) > 0 && !p.queue[0].at.After(now) {
		s := &p.queue[0]
		n := min(len(s.b), p.room-len(p.ready))
		if len(s.b) > 0 && n <= 0 {
			return some
		}
		p.ready = append(p.ready, s.b[:max(n, 0)]...)
		p.bytes -= n
		s.b = s.b[n:]
		p.acked, some = now, true
		if len(s.b) > 0 {
			return some
		}
		p.fin = p.fin || s.fin
		if s.rst {
			p.rst, p.ready = true, nil
		}
		p.queue = p.queue[1:]
	}
	return some
}

// next is when something arrives, if it does by itself.
func (p *pipe) next() (at time.Time, ok bool) {
	if p.silent || len(p.queue) == 0 || len(p.queue[0].b) > 0 && len(p.ready) >= p.room {
		return at, false
	}
	return p.queue[0].at, true
}

// unacked counts a FIN as a byte.
func (p *pipe) unacked() int {
	n := p.bytes
	if len(p.queue) > 0 && p.queue[len(p.queue)-1].fin {
		n++
	}
	return n
}
