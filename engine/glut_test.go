package engine

import (
	"errors"
	"testing"
	"time"

	"millrace/codec"
)

// Sessions that never read hold the memory budget with pushes, each within MaxOutbound.
// After 10 s they are closed, the heaviest first, until an eighth of it is free;
// those that read, and those that have only answers or little unread, stay.
func TestGlutOfPushesEnds(t *testing.T) {
	const budget, hoard = 1 << 20, 200 << 10
	d := newDesk(t, Config{MemoryBudget: budget, MaxOutbound: 256 << 10, Dispatch: Inline, UserTimeout: Off, FirstFrameTimeout: Off}, &funcs{read: func(s *Session, _ codec.Packet) {
		s.Send(1, 1, make([]byte, 60_000))
	}})
	var hoarders []*Session
	for i := range 6 {
		s, _ := d.open(0)
		for s.Stats().Unsent < hoard-i*10_000 {
			s.Push(1, 1, make([]byte, 1000))
			d.turns()
		}
		hoarders = append(hoarders, s)
	}
	answered, _ := d.open(0)
	d.l.traffic(answered, frame(1, 1, ""))
	little, _ := d.open(0)
	little.Push(1, 1, nil)
	reads, w := d.open(-1)
	d.turns()
	if b := d.buffered.Load(); b <= budget {
		t.Fatalf("%d bytes wait, want more than %d", b, budget)
	}
	if err := d.Broadcast(1, 1, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("broadcast within the glut: %v", err)
	}
	d.pass(9*time.Second, 250*time.Millisecond)
	if n := d.Stats().Closes["slow_consumer"]; n != 0 {
		t.Fatalf("%d closed before their time", n)
	}
	d.pass(5*time.Second, 250*time.Millisecond)
	st := d.Stats()
	if st.Closes["slow_consumer"] != st.Lightened || st.Lightened != 2 || st.Buffered > budget-budget/glutRest {
		t.Errorf("%d closed, %d for the budget, want 2; %d bytes wait", st.Closes["slow_consumer"], st.Lightened, st.Buffered)
	}
	for i, s := range append(hoarders, answered, little, reads) {
		if got, want := s.Connected(), i >= 2; got != want {
			t.Errorf("session %d: connected %v", i, got)
		}
	}
	before := len(w.got)
	if err := d.Broadcast(1, 1, nil); err != nil {
		t.Error(err)
	}
	d.turns()
	if len(w.got) == before {
		t.Error("no broadcast after the glut")
	}
}

// A glut of answers closes nobody, however long it lasts.
func TestGlutOfAnswersClosesNobody(t *testing.T) {
	d := newDesk(t, Config{MemoryBudget: 1 << 20, MaxOutbound: 256 << 10, UserTimeout: Off, FirstFrameTimeout: Off}, &funcs{})
	var all []*Session
	for range 6 {
		s, _ := d.open(0)
		for s.Stats().Unsent < 200<<10 {
			s.Send(1, 1, make([]byte, 1000))
			d.turns()
		}
		s.Push(1, 1, make([]byte, 1000))
		all = append(all, s)
	}
	d.pass(time.Minute, 250*time.Millisecond)
	for i, s := range all {
		if !s.Connected() {
			t.Errorf("session %d: %v", i, Reason(s.closing.Load()))
		}
	}
}
