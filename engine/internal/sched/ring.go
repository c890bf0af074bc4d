package sched

// ringLeast is how many functions a ring that has grown keeps room for.
const ringLeast = 64

// ring is a queue of functions that grows up to max, and shrinks when it is three
// quarters empty.
type ring struct {
	q    []func()
	head int
	n    int
	max  int
}

func (r *ring) len() int { return r.n }

// push appends fn; false when max wait.
func (r *ring) push(fn func()) bool {
	if r.n == r.max {
		return false
	}
	if r.n == len(r.q) {
		r.resize(min(max(ringLeast, 2*len(r.q)), r.max))
	}
	r.q[(r.head+r.n)%len(r.q)] = fn
	r.n++
	return true
}

// pop takes the oldest; nil when there is none.
func (r *ring) pop() func() {
	if r.n == 0 {
		return nil
	}
	fn := r.q[r.head]
	r.q[r.head] = nil
	r.head = (r.head + 1) % len(r.q)
	r.n--
	if size := len(r.q); size > ringLeast && r.n <= size/4 {
		r.resize(max(ringLeast, size/2))
	}
	return fn
}

func (r *ring) resize(size int) {
	q := make([]func(), size)
	for i := range r.n {
		q[i] = r.q[(r.head+i)%len(r.q)]
	}
	r.q, r.head = q, 0
}
