package engine

import (
	"bytes"
	"testing"
	"time"

	"millrace/codec"
)

// A worker is blocked when one packet takes long, not when a batch of quick ones does,
// nor while the monitor's own lateness tells that processors are short.
func TestBlockedIsOnePacketThatTakesLong(t *testing.T) {
	d := newDesk(t, Config{}, &funcs{})
	s, _ := d.open(-1)
	d.settleAll()
	p, err := NewPool(PoolConfig{Workers: 1, Spare: 4})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{}
	p.workers = append(p.workers, w)
	p.state = poolRunning
	ran := make(chan bool)
	p.fns.push(func() { close(ran) })
	pass := func(n int, step uint32, late time.Duration) uint64 {
		for range n {
			if p.spawned.Load() > 0 {
				break // it reads the clock
			}
			p.epoch = p.epoch.Add(-time.Millisecond)
			s.in.step.Add(step)
			p.look(late)
		}
		return p.spawned.Load()
	}
	s.in.step.Store(0)
	w.since.Store(p.now())
	w.session.Store(s)
	if n := pass(40, 1, 0); n != 0 {
		t.Errorf("%d spare workers for a batch of quick packets", n)
	}
	if n := pass(20, 0, 20*time.Millisecond); n != 0 {
		t.Errorf("%d spare workers while processors are short", n)
	}
	s.in.step.Add(1)
	if n := pass(4, 0, 0); n != 0 {
		t.Errorf("%d spare workers before their time", n)
	}
	if n := pass(3, 0, 0); n == 0 {
		t.Error("no spare worker for one that is blocked")
	}
	select {
	case <-ran:
	case <-time.After(5 * time.Second):
		t.Error("the spare worker did not run what waited")
	}
	if err := p.Stop(within(t, 5*time.Second)); err != nil {
		t.Error(err)
	}
}

// A strand tells how far its batch is, from the beginning of each.
func TestStrandCountsItsSteps(t *testing.T) {
	var steps []uint32
	d := newDesk(t, Config{Dispatch: Ordered}, &funcs{read: func(s *Session, _ codec.Packet) {
		steps = append(steps, s.in.step.Load())
	}})
	s, _ := d.open(-1)
	d.settleAll()
	for range 2 {
		steps = nil
		d.l.queue(s, bytes.Repeat(frame(1, 1, ""), 3*stepPackets), nil)
		d.settleAll()
		if len(steps) != 3*stepPackets || steps[0] != 0 || steps[len(steps)-1] != 3 {
			t.Errorf("steps %v", steps)
		}
	}
}
