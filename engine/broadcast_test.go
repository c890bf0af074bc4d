package engine

import (
	"bytes"
	"runtime"
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
	if n := d.l.out.Queued.Load(); n != 0 {
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
	d := newDesk(t, Config{Dispatch: Ordered, Limits: Limits{MaxOutbox: limit}}, h)
	slow := d.addLoop(handExec{}) // a loop that stands still
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
	if q := slow.out.Queued.Load(); q > limit+2000 {
		t.Errorf("%d bytes wait, limit %d", q, limit)
	}
	for range 20 { // it moves again
		slow.Turn()
		d.settleAll()
	}
	if got := done.Load(); got != n || refused.Load() > 0 {
		t.Errorf("%d of %d callbacks ran, %d refused", got, n, refused.Load())
	}
}

// A turn of the loop writes to a bounded number of sessions, whatever waits, and
// broadcasts that wait together leave as one write for each session.
func TestWalkIsBoundedAndJoinsWhatWaits(t *testing.T) {
	const sessions, budget = 1000, 64
	d := newDesk(t, Config{DrainBudget: budget}, &funcs{})
	var wires []*fakeWire
	for range sessions {
		_, w := d.open(-1)
		wires = append(wires, w)
	}
	d.settleAll()
	for range 10 {
		if err := d.Broadcast(1, 1, []byte("to all")); err != nil {
			t.Fatal(err)
		}
	}
	turns := 0
	for before := d.Stats().Loops[0].Writes; d.turn(); turns++ {
		now := d.Stats().Loops[0].Writes
		if now-before > budget {
			t.Fatalf("%d writes in one turn, budget %d", now-before, budget)
		}
		before = now
	}
	for i, w := range wires {
		if w.writes != 1 || len(w.got) != 10*14 {
			t.Fatalf("session %d: %d writes, %d bytes; want 1 and 140", i, w.writes, len(w.got))
		}
	}
	if turns < sessions/budget {
		t.Errorf("%d turns for %d sessions", turns, sessions)
	}
}

// A sweep within a walk does not lose who was found behind in it.
func TestASweepWithinAWalkKeepsWhatTheSlowLack(t *testing.T) {
	const budget = 4
	for slowest := range 2 * budget { // in front of the walk or behind it when the sweep comes
		d := newDesk(t, Config{DrainBudget: budget}, &funcs{})
		var wires []*fakeWire
		for i := range 4 * budget {
			room := -1
			if i == slowest {
				room = 0
			}
			_, w := d.open(room)
			wires = append(wires, w)
		}
		d.settleAll()
		for round := range 3 {
			if err := d.Broadcast(1, uint16(round), []byte("to all")); err != nil {
				t.Fatal(err)
			}
			d.sweepNow()
			d.turn()
			if !d.l.walking {
				t.Fatal("the walk has ended before the sweep")
			}
			d.settleAll()
		}
		slow := wires[slowest]
		slow.room = -1
		slow.s.canWrite()
		d.settleAll()
		for i, w := range wires {
			if !bytes.Equal(w.got, wires[len(wires)-1].got) || len(w.got) != 3*14 {
				t.Fatalf("slowest %d: session %d was written %d bytes: %q", slowest, i, len(w.got), w.got)
			}
		}
	}
}

// While nothing else waits for the loop, it goes on to the end of the walk.
func TestAnIdleLoopWalksToTheEnd(t *testing.T) {
	d := newDesk(t, Config{DrainBudget: 16}, &funcs{})
	for range 1000 {
		d.open(-1)
	}
	d.settleAll()
	d.alone = true
	if err := d.Broadcast(1, 1, nil); err != nil {
		t.Fatal(err)
	}
	before := d.Stats().Loops[0].Writes
	d.turn()
	if n := d.Stats().Loops[0].Writes - before; n != 1000 {
		t.Errorf("%d sessions written to in the turn, want 1000", n)
	}
	if d.turn() {
		t.Error("another turn was asked for")
	}
}

// deepWire is a broken wire that notes how deep its writer's stack is.
type deepWire struct {
	fakeWire
	deepest *int
}

func (w *deepWire) Write(p []byte) (int, error) {
	*w.deepest = max(*w.deepest, runtime.Callers(0, make([]uintptr, 1000)))
	return w.fakeWire.Write(p)
}

// Peers that break within one walk are removed one by one, not each within the other's
// removal, and whoever stands behind them gets the broadcast.
func TestPeersThatBreakWithinAWalk(t *testing.T) {
	d := newDesk(t, Config{}, &funcs{})
	var sound []*fakeWire
	deepest := 0
	for i := range 1000 {
		s, w := d.open(-1)
		if i%10 == 9 {
			sound = append(sound, w)
			continue
		}
		broken := &deepWire{fakeWire{s: s, fail: errBroken}, &deepest}
		s.conn = broken
	}
	d.settleAll()
	if err := d.Broadcast(1, 1, nil); err != nil {
		t.Fatal(err)
	}
	d.settleAll()
	for i, w := range sound {
		if w.writes != 1 || len(w.got) != 8 {
			t.Fatalf("session %d: %d writes, %d bytes", i, w.writes, len(w.got))
		}
	}
	if n := d.table.count(); n != len(sound) || d.l.out.Queued.Load() != 0 {
		t.Errorf("%d sessions left, want %d; %d bytes queued", n, len(sound), d.l.out.Queued.Load())
	}
	if deepest == 0 || deepest > 50 {
		t.Errorf("a stack of %d calls", deepest)
	}
}
