package timerwheel

import (
	"errors"
	"fmt"
	"net"
	"slices"
)

// flush submits the open batches. No shard is locked.
func (s *Service) flush() {
	d := &s.drive
	for i, set := range d.open {
		b := set.open
		set.open = nil
		d.open[i] = nil
		s.send(set, b)
	}
	d.open = d.open[:0]
}

// send submits b, behind what its set has parked.
func (s *Service) send(set *Set, b *batch) {
	if set.parked == nil && s.submit(set, b) {
		return
	}
	s.park(set, b)
}

// submit hands b over. It returns false when the submitter is full. When that
// has gone for good, or the service has been stopped, b is thrown away.
func (s *Service) submit(set *Set, b *batch) bool {
	var err error = net.ErrClosed
	if s.live.Load() && !set.closed.Load() {
		err = s.offer(set, b)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, net.ErrClosed):
		if s.live.Load() {
			s.count.dropped.Add(uint64(set.Close()))
		}
		s.batches.put(b)
		return true
	}
	s.count.refused.Add(1)
	return false
}

// offer calls Submit; a panic in it counts as a refusal.
func (s *Service) offer(set *Set, b *batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
			err = fmt.Errorf("timerwheel: submitter panicked: %v", p)
		}
	}()
	return set.sub.Submit(b.run)
}

// park appends b to its set's queue of refused batches. Those are bounded by
// the timers: each has one firing out at most.
func (s *Service) park(set *Set, b *batch) {
	s.count.waiting.Add(1)
	if set.parked != nil {
		set.tail.next = b
		set.tail = b
		return
	}
	set.parked, set.tail = b, b
	if !set.stuck {
		set.stuck = true
		s.drive.stuck = append(s.drive.stuck, set)
	}
	s.arm(0, s.drive.last[0]+1)
}

// retry offers refused batches again, once a tick, in their order.
func (s *Service) retry(nowTick int64) {
	d := &s.drive
	s.takeBack()
	if len(d.stuck) == 0 || nowTick < d.retryAt {
		return
	}
	d.retryAt = nowTick + 1
	tries := retryStep
	for n := len(d.stuck); n > 0 && tries > 0; n-- {
		set := d.stuck[0]
		d.stuck = slices.Delete(d.stuck, 0, 1)
		tries = s.unpark(set, tries)
		if set.parked != nil {
			d.stuck = append(d.stuck, set)
		} else {
			set.stuck = false
		}
	}
	if len(d.stuck) > 0 {
		s.arm(0, nowTick+1)
	}
}

// unpark submits what the set has parked, until it is refused or has used up
// the tries, and returns how many tries are left.
func (s *Service) unpark(set *Set, tries int) int {
	for set.parked != nil && tries > 0 {
		tries--
		b := set.parked
		next := b.next
		b.next = nil // b is another's once it is submitted
		if !s.submit(set, b) {
			b.next = next
			break
		}
		s.count.waiting.Add(-1)
		if set.parked = next; next == nil {
			set.tail = nil
		}
	}
	return tries
}

// handBack takes a batch that its worker did not finish: it ended within a
// callback, or would have had to wait for a lock. Runs on any goroutine.
func (s *Service) handBack(b *batch) {
	d := &s.drive
	d.mu.Lock()
	d.back = append(d.back, b)
	d.mu.Unlock()
	s.arm(0, s.now()/s.tick+1)
}

// takeBack puts firings still to be run in front of what else their sets have
// parked, and has the timers of the others taken away.
func (s *Service) takeBack() {
	d := &s.drive
	d.mu.Lock()
	back := d.back
	d.back = nil
	d.mu.Unlock()
	for _, b := range back {
		set := b.set
		if b.at == len(b.items) {
			d.ended = append(d.ended, b)
			continue
		}
		if set.parked == nil {
			s.send(set, b)
			continue
		}
		s.count.waiting.Add(1)
		b.next = set.parked
		set.parked = b
	}
}

// settleDown waits for the driver to end and lets go of what is parked. The
// service is stopped.
func (s *Service) settleDown() {
	d := &s.drive
	d.driving.Lock()
	defer d.driving.Unlock()
	for more := true; more; more = len(d.stuck) > 0 || len(d.ended) > 0 {
		d.retryAt = 0
		s.retry(s.now() / s.tick)
		s.tidy()
	}
	for i := range s.armed {
		s.armed[i].Store(0)
	}
	d.restart(s.now() / s.tick)
	d.dense.Store(false)
	if d.pacer != nil {
		d.pacer.Stop()
	}
}
