package engine

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// tableModel is what a table must be: who has each slot, and every ID ever given.
type tableModel struct {
	t     *table
	have  map[*Session]bool
	gone  []ID
	round map[uint32]uint32
}

func (m *tableModel) step(f func(string, ...any), open bool, pick int) {
	if open || len(m.have) == 0 {
		s := &Session{}
		free := len(m.t.free)
		if ok := m.t.acquire(s); ok != (free > 0) {
			f("acquire with %d free: %v", free, ok)
		} else if !ok {
			return
		}
		m.have[s] = true
		if s.Round() <= m.round[s.Index()] {
			f("slot %d: round %d after %d", s.Index(), s.Round(), m.round[s.Index()])
		}
		m.round[s.Index()] = s.Round()
	} else {
		for s := range m.have {
			if pick--; pick < 0 {
				m.t.release(s)
				delete(m.have, s)
				m.gone = append(m.gone, s.id)
				break
			}
		}
	}
	if m.t.count() != len(m.have) {
		f("count %d, want %d", m.t.count(), len(m.have))
	}
}

func (m *tableModel) look(f func(string, ...any)) {
	for s := range m.have {
		if m.t.lookup(s.id) != s {
			f("%v does not find its session", s.id)
		}
	}
	for _, id := range m.gone[max(0, len(m.gone)-100):] {
		if s := m.t.lookup(id); s != nil {
			f("the old %v finds %v", id, s.id)
		}
	}
	for _, id := range []ID{0, makeID(0, 0), makeID(uint32(len(m.t.all())), 1), makeID(math.MaxUint32, math.MaxUint32)} {
		if m.t.lookup(id) != nil {
			f("%v finds something", id)
		}
	}
}

// An ID finds its session for as long as that has its slot, and nothing ever after; a
// slot's round only grows and is never 0, up to its very end.
func TestTableModel(t *testing.T) {
	check(t, func(rt *rapid.T) {
		m := &tableModel{t: newTable(rapid.IntRange(1, 64).Draw(rt, "slots")), have: map[*Session]bool{}, round: map[uint32]uint32{}}
		for i := range m.t.rounds { // some slots near their last round
			m.t.rounds[i] = rapid.SampledFrom([]uint32{0, 7, math.MaxUint32 - 3, math.MaxUint32 - 1}).Draw(rt, "round")
			m.round[uint32(i)] = m.t.rounds[i]
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":      func(t *rapid.T) { m.look(t.Fatalf) },
			"open":  func(t *rapid.T) { m.step(t.Fatalf, true, 0) },
			"close": func(t *rapid.T) { m.step(t.Fatalf, false, rapid.IntRange(0, 63).Draw(t, "who")%max(1, len(m.have))) },
		})
	})
}

// A million random steps over 64 slots.
func TestTableManySteps(t *testing.T) {
	n := 100_000
	if *long {
		n = 1_000_000
	}
	m := &tableModel{t: newTable(64), have: map[*Session]bool{}, round: map[uint32]uint32{}}
	x := uint64(1)
	for i := range n {
		x = x*6364136223846793005 + 1442695040888963407
		m.step(t.Fatalf, x>>63 == 0, int(x>>33)%max(1, len(m.have)))
		if i%64 == 0 {
			m.look(t.Fatalf)
		}
	}
}

// A slot that has had its last round is not used again: after MaxUint32 there is no 0.
func TestRoundsEndWithoutWrapping(t *testing.T) {
	tab := newTable(1)
	tab.rounds[0] = math.MaxUint32 - 2
	var ids []ID
	for range 2 {
		s := &Session{}
		if !tab.acquire(s) {
			t.Fatalf("no slot for round %d", uint32(math.MaxUint32-1))
		}
		ids = append(ids, s.id)
		tab.release(s)
	}
	if ids[0].Round() != math.MaxUint32-1 || ids[1].Round() != math.MaxUint32 {
		t.Errorf("rounds %d, %d", ids[0].Round(), ids[1].Round())
	}
	if s := (&Session{}); tab.acquire(s) {
		t.Errorf("the slot came again with round %d", s.Round())
	}
}
