package engine

// push puts a session whose strand is queued onto the run queue.
func (p *Pool) push(s *Session) {
	p.mu.Lock()
	s.in.next = nil
	if p.tail == nil {
		p.head = s
	} else {
		p.tail.in.next = s
	}
	p.tail = s
	p.sessions++
	p.signal()
}

// ring is a queue of functions that grows up to max.
type ring struct {
	q    []func()
	head int
	n    int
	max  int
}

func (r *ring) len() int { return r.n }

func (r *ring) push(fn func()) bool {
	if r.n == r.max {
		return false
	}
	if r.n == len(r.q) {
		q := make([]func(), min(max(64, 2*len(r.q)), r.max))
		for i := range r.n {
			q[i] = r.q[(r.head+i)%len(r.q)]
		}
		r.q, r.head = q, 0
	}
	r.q[(r.head+r.n)%len(r.q)] = fn
	r.n++
	return true
}

func (r *ring) pop() func() {
	if r.n == 0 {
		return nil
	}
	fn := r.q[r.head]
	r.q[r.head] = nil
	r.head = (r.head + 1) % len(r.q)
	r.n--
	return fn
}
