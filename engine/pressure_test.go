package engine

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"millrace/codec"
	"millrace/engine/internal/budget"
)

// pushUntil pushes to a session until so much is unsent or it is refused.
func (d *desk) pushUntil(s *Session, unsent int) {
	for s.Stats().Unsent < unsent && s.Push(1, 1, make([]byte, 1000)) == nil {
		d.turns()
	}
}

// glutDesk is a desk whose handler answers each request with 240 KiB.
func glutDesk(t *testing.T) *desk {
	const limit = 1 << 20
	return newDesk(t, Config{Limits: Limits{MemoryBudget: limit, MaxOutbound: 256 << 10}, MaxFrame: 1 << 17, Dispatch: Inline, Socket: Socket{UserTimeout: Off}, Timeouts: Timeouts{FirstFrameTimeout: Off, FrameTimeout: Off}},
		&funcs{read: func(s *Session, _ codec.Packet) {
			for range 4 {
				s.Send(1, 1, make([]byte, 60<<10))
			}
		}})
}

// Sessions that never read hold the memory budget with pushes, each within MaxOutbound.
// After 10 s they are closed, the heaviest first, until an eighth of it is free;
// those that read, and those that have only answers or little unread, stay.
func TestGlutOfPushesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := glutDesk(t)
		limit := d.budget.Limit()
		var hoarders []*Session
		for i := range 3 {
			s, _ := d.open(0)
			d.pushUntil(s, 250<<10-i*1000)
			hoarders = append(hoarders, s)
		}
		answered, _ := d.open(0)
		d.l.received(answered, frame(1, 1, ""))
		little, _ := d.open(0)
		little.Push(1, 1, nil)
		reads, w := d.open(-1)
		d.turns()
		if b := d.budget.Used(); b <= limit || b > limit+limit/4 {
			t.Fatalf("%d bytes are held, want a little more than %d", b, limit)
		}
		if err := d.Broadcast(1, 1, nil); !errors.Is(err, ErrMemory) || !errors.Is(err, ErrBusy) {
			t.Errorf("broadcast within the glut: %v", err)
		}
		d.pass(9*time.Second, 250*time.Millisecond)
		if n := d.Stats().Closes[ReasonSlowConsumer]; n != 0 {
			t.Fatalf("%d closed before their time", n)
		}
		d.pass(5*time.Second, 250*time.Millisecond)
		st := d.Stats()
		if st.Closes[ReasonSlowConsumer] != st.Shed || st.Shed == 0 || st.Shed == 3 || st.Memory > limit-limit/glutRest {
			t.Errorf("%d closed, %d for the budget, want some; %d bytes are held", st.Closes[ReasonSlowConsumer], st.Shed, st.Memory)
		}
		for i, s := range append(hoarders, answered, little, reads) {
			if got, want := s.Connected(), i >= int(st.Shed); got != want {
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
	})
}

// A glut of answers ends too: those go whose peers have taken nothing for long, and that
// hold more than a fair share. Who reads, however slowly, and who holds little stays.
func TestGlutOfAnswersEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := glutDesk(t)
		limit := d.budget.Limit()
		var deaf, slow []*Session
		var wires []*fakeWire
		for range 2 {
			s, _ := d.open(0)
			d.l.received(s, frame(1, 1, ""))
			deaf = append(deaf, s)
		}
		for range 2 {
			s, w := d.open(0)
			d.l.received(s, frame(1, 1, ""))
			slow, wires = append(slow, s), append(wires, w)
		}
		little, _ := d.open(0)
		little.Send(1, 1, nil)
		d.turns()
		if b := d.budget.Used(); b <= limit || b > limit+limit/4 {
			t.Fatalf("%d bytes are held, want a little more than %d", b, limit)
		}
		for range 15 {
			d.pass(time.Second, 250*time.Millisecond)
			for _, w := range wires {
				w.give(100)
			}
			d.turns()
		}
		st := d.Stats()
		if st.Closes[ReasonMemory] != st.Shed || st.Shed == 0 || st.Memory > limit-limit/glutRest {
			t.Errorf("%d closed for the budget, %d shed; %d bytes are held", st.Closes[ReasonMemory], st.Shed, st.Memory)
		}
		for i, s := range append(slow, little) {
			if !s.Connected() {
				t.Errorf("session %d that takes bytes, or holds little: %v", i, Reason(s.closing.Load()))
			}
		}
		for i, s := range deaf[:st.Shed] {
			if s.Connected() {
				t.Errorf("session %d that takes nothing is still there", i)
			}
		}
	})
}

// A move of the budget's level that is told late, behind a later one, changes nothing.
func TestLevelMoveThatIsToldLate(t *testing.T) {
	d := newDesk(t, Config{Limits: Limits{MemoryBudget: 1 << 20}}, &funcs{})
	d.levelMoved(budget.Spent) // nothing is held any more
	if got := d.share.Load(); got != int64(d.cfg.MaxOutbound) || d.spent() {
		t.Errorf("a share of %d with nothing held, spent %v", got, d.spent())
	}
}

// What is weighed is memory: sessions whose unsent bytes are less than a share of the
// budget, and what they hold for them is more, go too.
func TestGlutIsWeighedAsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Config{Limits: Limits{MemoryBudget: 1 << 20, MaxOutbound: 256 << 10}, MaxFrame: 1 << 18, Dispatch: Inline, Socket: Socket{UserTimeout: Off}, Timeouts: Timeouts{FirstFrameTimeout: Off}},
			&funcs{read: func(s *Session, _ codec.Packet) {
				for range 5 {
					s.Send(1, 1, make([]byte, 32<<10))
				}
			}})
		for range 4 {
			s, _ := d.open(0)
			d.l.received(s, frame(1, 1, ""))
		}
		d.turns()
		share, unsent := d.budget.Limit()/4, sessionOf(d.Server).Stats().Unsent
		if b := d.budget.Used(); b <= d.budget.Limit() || unsent >= share {
			t.Fatalf("%d bytes are held, of a budget of %d; %d unsent in each, share %d", b, d.budget.Limit(), unsent, share)
		}
		d.pass(12*time.Second, 250*time.Millisecond)
		if st := d.Stats(); st.Shed == 0 || st.Memory > d.budget.Limit() {
			t.Errorf("%d closed, %d bytes are held", st.Shed, st.Memory)
		}
	})
}

// Past five quarters of the budget nobody waits for 10 s: who has taken nothing for one
// second goes.
func TestSpentBudgetIsRelievedWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := glutDesk(t)
		limit := d.budget.Limit()
		for range 8 {
			s, _ := d.open(0)
			d.l.received(s, frame(1, 1, ""))
		}
		d.turns()
		if b := d.budget.Used(); b <= limit+limit/4 {
			t.Fatalf("%d bytes are held, want more than five quarters of %d", b, limit)
		}
		d.pass(750*time.Millisecond, 250*time.Millisecond)
		if n := d.Stats().Shed; n != 0 {
			t.Errorf("%d closed within the first second", n)
		}
		d.pass(2*time.Second, 250*time.Millisecond)
		if st := d.Stats(); st.Memory > limit-limit/glutRest || st.Shed == 8 {
			t.Errorf("%d bytes are held after %d were closed", st.Memory, st.Shed)
		}
	})
}

// Beginnings of frames count: those whose peers send no more of them hear why and go.
func TestGlutOfBeginningsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Config{Limits: Limits{MemoryBudget: 1 << 20}, MaxFrame: 1 << 20, Dispatch: Inline, Socket: Socket{UserTimeout: Off}, Timeouts: Timeouts{FirstFrameTimeout: Off, FrameTimeout: Off}}, &funcs{})
		limit := d.budget.Limit()
		begin := append([]byte{0, 0x0f, 0, 0, 0, 1, 0, 1}, make([]byte, 200<<10)...)
		var wires []*fakeWire
		for range 5 {
			s, w := d.open(-1)
			d.l.received(s, begin)
			wires = append(wires, w)
		}
		d.turns()
		if b := d.budget.Used(); b <= limit {
			t.Fatalf("%d bytes are held, want more than %d", b, limit)
		}
		d.pass(12*time.Second, 250*time.Millisecond)
		st := d.Stats()
		if st.Closes[ReasonMemory] != st.Shed || st.Shed == 0 || st.Shed == 5 || st.Memory > limit-limit/glutRest {
			t.Errorf("%d closed for the budget, %d shed; %d bytes are held", st.Closes[ReasonMemory], st.Shed, st.Memory)
		}
		told := uint64(0)
		for _, w := range wires {
			if p, _, _, err := codec.Default().Decode(w.got); err == nil && p.Sub == SubError && p.Body[1] == byte(CodeLimit) && w.finned {
				told++
			}
		}
		if told != st.Shed {
			t.Errorf("%d of %d were told", told, st.Shed)
		}
	})
}
