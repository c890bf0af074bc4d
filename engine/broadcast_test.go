package engine

import (
	"sync/atomic"
	"testing"

	"millrace/codec"
)

// A broadcast reaches idle sessions also while others always have something to send.
func TestWalkIsNotStarvedByBusySessions(t *testing.T) {
	d := newDesk(t, Config{DrainBudget: 4, Dispatch: Inline}, &funcs{})
	var all []*Session
	var wires []*fakeWire
	for range 40 {
		s, w := d.open(-1)
		all, wires = append(all, s), append(wires, w)
	}
	d.settleAll()
	if err := d.Broadcast(7, 7, nil); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		for _, s := range all[:10] {
			s.Send(1, 1, nil)
		}
		d.turn()
	}
	if n := d.l.queued.Load(); n != 0 {
		t.Errorf("%d bytes of the log wait after 40 turns", n)
	}
	for i, w := range wires {
		if len(w.got) == 0 {
			t.Errorf("session %d has had nothing", i)
		}
	}
}

// A callback that broadcasts is never refused: its strand waits for the slowest loop,
// although others have room.
func TestBroadcastingStrandWaitsForTheSlowestLoop(t *testing.T) {
	const limit = 64 << 10
	var done, refused atomic.Int64
	h := &funcs{read: func(s *Session, p codec.Packet) {
		if s.Broadcast(2, 2, make([]byte, 1000)) != nil {
			refused.Add(1)
		}
		done.Add(1)
	}}
	d := newDesk(t, Config{Dispatch: Ordered, MaxOutbox: limit}, h)
	slow := d.addLoop(d)
	s, _ := d.open(-1)
	d.settleAll()
	const n = 400
	for range n {
		d.l.queue(s, frame(1, 1, ""), nil)
	}
	for range 2 * limit / 1000 { // the other loop has turns
		d.sweepNow()
		d.settleAll()
	}
	if got := done.Load(); got == n || refused.Load() > 0 {
		t.Fatalf("%d callbacks ran, %d refused, while a loop stood still", got, refused.Load())
	}
	if q := slow.queued.Load(); q > limit+2000 {
		t.Errorf("%d bytes wait, limit %d", q, limit)
	}
	for range 20 { // it moves again
		slow.turn()
		d.settleAll()
	}
	if got := done.Load(); got != n || refused.Load() > 0 {
		t.Errorf("%d of %d callbacks ran, %d refused", got, n, refused.Load())
	}
}
