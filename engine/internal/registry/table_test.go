package registry

import (
	"flag"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

type thing struct{ key Key }

func (v *thing) named(k Key) { v.key = k }

func newTable(n int) *Table[thing] {
	t := &Table[thing]{}
	t.Open(n)
	return t
}

// model is what a table must be: who has each slot, and every Key ever given.
type model struct {
	t     *Table[thing]
	have  map[*thing]bool
	gone  []Key
	round map[uint32]uint32
}

func (m *model) step(f func(string, ...any), open bool, pick int) {
	if open || len(m.have) == 0 {
		v := &thing{}
		free := len(m.t.free)
		if ok := m.t.Acquire(v, v.named); ok != (free > 0) {
			f("Acquire with %d free: %v", free, ok)
		} else if !ok {
			return
		}
		m.have[v] = true
		if v.key.Round <= m.round[v.key.Index] {
			f("slot %d: round %d after %d", v.key.Index, v.key.Round, m.round[v.key.Index])
		}
		m.round[v.key.Index] = v.key.Round
	} else {
		for v := range m.have {
			if pick--; pick < 0 {
				m.t.Release(v.key)
				delete(m.have, v)
				m.gone = append(m.gone, v.key)
				break
			}
		}
	}
	if m.t.Count() != len(m.have) {
		f("Count %d, want %d", m.t.Count(), len(m.have))
	}
}

func (m *model) look(f func(string, ...any)) {
	for v := range m.have {
		if m.t.Lookup(v.key) != v {
			f("%v does not find its owner", v.key)
		}
	}
	for _, k := range m.gone[max(0, len(m.gone)-100):] {
		if v := m.t.Lookup(k); v != nil {
			f("the old %v finds %v", k, v.key)
		}
	}
	for _, k := range []Key{{}, {uint32(len(m.t.all())), 1}, {math.MaxUint32, math.MaxUint32}} {
		if m.t.Lookup(k) != nil {
			f("%v finds something", k)
		}
	}
	seen := map[*thing]bool{}
	m.t.Each(func(v *thing) bool { seen[v] = true; return true })
	if len(seen) != len(m.have) {
		f("Each saw %d, want %d", len(seen), len(m.have))
	}
}

// A Key finds its owner for as long as that has its slot, and nothing ever after; a
// slot's round only grows and is never 0, up to its very end.
func TestTableModel(t *testing.T) {
	flag.Set("rapid.nofailfile", "true") // the seed is in the output
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: newTable(rapid.IntRange(1, 64).Draw(rt, "slots")), have: map[*thing]bool{}, round: map[uint32]uint32{}}
		slots := m.t.all()
		for i := range slots { // some slots near their last round
			n := rapid.SampledFrom([]uint32{0, 7, math.MaxUint32 - 3, math.MaxUint32 - 1}).Draw(rt, "round")
			slots[i].round.Store(n)
			m.round[uint32(i)] = n
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":        func(t *rapid.T) { m.look(t.Fatalf) },
			"acquire": func(t *rapid.T) { m.step(t.Fatalf, true, 0) },
			"release": func(t *rapid.T) { m.step(t.Fatalf, false, rapid.IntRange(0, 63).Draw(t, "who")%max(1, len(m.have))) },
		})
	})
}

// A hundred thousand random steps over 64 slots.
func TestTableManySteps(t *testing.T) {
	m := &model{t: newTable(64), have: map[*thing]bool{}, round: map[uint32]uint32{}}
	x := uint64(1)
	for i := range 100_000 {
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
	tab.all()[0].round.Store(math.MaxUint32 - 2)
	for _, want := range []uint32{math.MaxUint32 - 1, math.MaxUint32} {
		v := &thing{}
		if !tab.Acquire(v, v.named) || v.key.Round != want {
			t.Fatalf("got %v, want round %d", v.key, want)
		}
		tab.Release(v.key)
	}
	if v := (&thing{}); tab.Acquire(v, v.named) {
		t.Errorf("the slot came again with round %d", v.key.Round)
	}
}

// While one slot changes hands all the time, its Keys find their own owner or nothing.
func TestLookupFindsNoLaterOwner(t *testing.T) {
	tab := newTable(1)
	var last atomic.Pointer[Key]
	var end atomic.Bool
	var readers sync.WaitGroup
	last.Store(&Key{})
	for range 2 {
		readers.Go(func() {
			for !end.Load() {
				k := *last.Load()
				for range 8 {
					if v := tab.Lookup(k); v != nil && v.key != k {
						t.Errorf("%v finds %v", k, v.key)
						return
					}
				}
			}
		})
	}
	for range 500_000 {
		v := &thing{}
		if !tab.Acquire(v, v.named) {
			t.Fatal("no slot")
		}
		last.Store(&v.key)
		tab.Release(v.key)
	}
	end.Store(true)
	readers.Wait()
}

// A table is empty before Open, and a Key can be given back once.
func TestReleaseTwicePanics(t *testing.T) {
	closed := &Table[thing]{}
	v := &thing{}
	if closed.Acquire(v, v.named) || closed.Lookup(Key{0, 1}) != nil || closed.Count() != 0 {
		t.Error("a table without slots has something")
	}
	tab := newTable(2)
	tab.Acquire(v, v.named)
	old := v.key
	tab.Release(old)
	tab.Acquire(v, v.named)
	for _, k := range []Key{old, {1, 0}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Release(%v) did not panic", k)
				}
			}()
			tab.Release(k)
		}()
	}
}

// Acquire and Lookup allocate nothing.
func TestTableAllocatesNothing(t *testing.T) {
	tab, v := newTable(4), &thing{}
	if n := testing.AllocsPerRun(100, func() {
		tab.Acquire(v, func(k Key) { v.key = k })
		tab.Lookup(v.key)
		tab.Release(v.key)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
