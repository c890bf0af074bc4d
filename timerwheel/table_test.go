package timerwheel

import (
	"math/rand/v2"
	"testing"
)

// TestTableModel compares the table with a map through growth, removal in any
// order, slots used again, chains, and the steps in which it gets smaller.
func TestTableModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	tab := table{seed: rng.Uint64()}
	var s slab
	live := map[TimerID]uint32{}
	var ids []TimerID
	const set = 7
	check := func() {
		t.Helper()
		if int(tab.count) != len(live) {
			t.Fatalf("count: got %d, want %d", tab.count, len(live))
		}
		for _, id := range ids {
			// What likely stores must change nothing, also in an entry that has the tag only.
			if _, e := tab.likely(&s, tab.hash(set, id)); e == nil {
				t.Fatalf("likely(%d): got none, want an entry", id)
			}
			if i, _ := tab.find(&s, set, id, tab.hash(set, id)); i != live[id] {
				t.Fatalf("find(%d): got entry %d, want %d", id, i, live[id])
			}
		}
	}
	add := func() {
		id := TimerID(rng.Uint64N(1 << 20))
		if live[id] != 0 {
			return
		}
		i, e := s.alloc()
		e.id, e.tag = id, set<<groupShift
		tab.add(&s, i, e, tab.hash(set, id))
		live[id] = i
		ids = append(ids, id)
	}
	remove := func() {
		k := rng.IntN(len(ids))
		id := ids[k]
		ids[k] = ids[len(ids)-1]
		ids = ids[:len(ids)-1]
		i := live[id]
		tab.remove(&s, i, s.at(i), tab.hash(set, id))
		s.release(i, s.at(i))
		delete(live, id)
		tab.likely(&s, tab.hash(set, id))
		if i, _ := tab.find(&s, set, id, tab.hash(set, id)); i != 0 {
			t.Fatalf("find(%d) after its removal: got entry %d, want none", id, i)
		}
	}
	for len(ids) < 20_000 {
		add()
	}
	chained := 0
	for b := range tab.buckets() {
		if tab.at(b).chain != 0 {
			chained++
		}
	}
	if chained == 0 {
		t.Error("no bucket has a chain: they were not tested")
	}
	check()
	for range 100_000 {
		if len(ids) < 15_000 || rng.IntN(2) == 0 {
			add()
		} else {
			remove()
		}
	}
	check()
	for len(ids) > 300 {
		remove()
	}
	check()
	was, steps := tab.buckets(), 0
	for more := true; more; steps++ {
		before := tab.buckets()
		more = tab.trim(&s, 100)
		if before-tab.buckets() > 100 {
			t.Fatalf("a step took %d buckets, want 100 at most", before-tab.buckets())
		}
	}
	if tab.count < fill/2*tab.buckets() && tab.buckets() > segLen || steps < 2 {
		t.Errorf("%d buckets, %d after %d steps, for %d entries", was, tab.buckets(), steps, tab.count)
	}
	check()
	for len(ids) < 20_000 {
		add()
	}
	check()
}
