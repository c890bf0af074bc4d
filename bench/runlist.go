package bench

// runList is a FIFO of times in which neighbours with the same time are one entry: 32 frames
// that left in one write cost one. It is a ring that doubles when it is full, so its length is
// bounded by the requests outstanding.
type runList struct {
	ring []timeRun
	head int
	n    int
}

type timeRun struct {
	at    int64 // nanoseconds on the loop's clock
	count int
}

func (r *runList) push(at int64, count int) {
	if count <= 0 {
		return
	}
	if r.n > 0 {
		last := &r.ring[(r.head+r.n-1)&(len(r.ring)-1)]
		if last.at == at {
			last.count += count
			return
		}
	}
	if r.n == len(r.ring) {
		r.grow()
	}
	r.ring[(r.head+r.n)&(len(r.ring)-1)] = timeRun{at, count}
	r.n++
}

func (r *runList) grow() {
	next := make([]timeRun, max(4, 2*len(r.ring)))
	for i := range r.n {
		next[i] = r.ring[(r.head+i)&(len(r.ring)-1)]
	}
	r.ring, r.head = next, 0
}

// pop takes up to count from the oldest run and returns its time and how many it took; none
// when the list is empty.
func (r *runList) pop(count int) (at int64, took int) {
	if r.n == 0 {
		return 0, 0
	}
	first := &r.ring[r.head]
	at, took = first.at, min(count, first.count)
	first.count -= took
	if first.count == 0 {
		r.head = (r.head + 1) & (len(r.ring) - 1)
		r.n--
	}
	return at, took
}
