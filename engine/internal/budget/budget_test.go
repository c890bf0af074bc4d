package budget

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Levels rise at the limit and at five quarters of it, and fall when half of it, and all
// of it, is free again.
func TestLevels(t *testing.T) {
	const limit = 1000
	var told []Level
	b := New(limit, func(l Level) { told = append(told, l) })
	want := []Level{}
	for _, step := range []struct {
		used int
		want Level
	}{
		{1000, Free}, {1001, Tight}, {1000, Tight}, {501, Tight}, {500, Free}, {1000, Free},
		{1250, Tight}, {1251, Spent}, {1001, Spent}, {1000, Tight}, {1250, Tight}, {1251, Spent}, {500, Free},
		{5000, Spent}, {0, Free},
	} {
		before := b.Level()
		b.Add(step.used - b.Used())
		if b.Level() != step.want || b.Used() != step.used {
			t.Fatalf("level %v at %d, want %v", b.Level(), b.Used(), step.want)
		}
		if step.want != before {
			want = append(want, step.want)
		}
	}
	if len(told) != len(want) {
		t.Fatalf("told of %v, want %v", told, want)
	}
	for i := range want {
		if told[i] != want[i] {
			t.Fatalf("told of %v, want %v", told, want)
		}
	}
}

// However many add and take away at the same time, the level in the end is that of what
// is used.
func TestLevelFitsWhatIsUsedAfterAllAdds(t *testing.T) {
	const limit = 10_000
	for round := range 200 {
		var changes atomic.Int64
		b := New(limit, func(Level) { changes.Add(1) })
		ends := []int{0, 400, limit, limit + 1, limit * 5 / 4, limit*5/4 + 1, 3 * limit}
		end := ends[round%len(ends)]
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(uint64(round), uint64(g)))
				mine := 0
				for range 300 {
					n := r.IntN(limit)
					if mine > 0 && r.IntN(2) == 0 {
						n = -r.IntN(mine + 1)
					}
					mine += n
					b.Add(n)
				}
				b.Add(-mine)
			}()
		}
		b.Add(end)
		wg.Wait()
		got, used := b.Level(), b.Used()
		if used != end {
			t.Fatalf("%d used, want %d", used, end)
		}
		least, most := Free, Free // between two thresholds it depends on where it came from
		switch {
		case used > limit+limit/4:
			least, most = Spent, Spent
		case used > limit:
			least, most = Tight, Spent
		case used > limit/2:
			most = Tight
		}
		if got < least || got > most {
			t.Fatalf("level %v with %d used of %d", got, used, limit)
		}
		if got != Free && changes.Load() == 0 {
			t.Fatal("nobody was told")
		}
	}
}

// The same where two pass each other at the threshold, again and again.
func TestLevelOfTwoThatPassEachOther(t *testing.T) {
	const limit, rounds = 1000, 20_000
	b := New(limit, nil)
	var at [2]atomic.Int64
	var wrong atomic.Int64
	var wg sync.WaitGroup
	meet := func(g int, n int64) {
		at[g].Store(n)
		for spins := 0; at[1-g].Load() < n; spins++ {
			if spins%1000 == 999 {
				runtime.Gosched()
			}
		}
	}
	for g := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range int64(rounds) {
				meet(g, 2*i+1)
				b.Add(limit + 1)
				b.Add(-limit - 1)
				meet(g, 2*i+2)
				if b.Level() != Free {
					wrong.Add(1)
				}
			}
		}()
	}
	wg.Wait()
	if n := wrong.Load(); n > 0 || b.Used() != 0 {
		t.Errorf("%d times a level was left with nothing used", n)
	}
}

// A share is all there is while there is room, an equal part while it is tight, and
// nothing when it is spent.
func TestShare(t *testing.T) {
	b := New(1000, nil)
	for _, tc := range []struct {
		level   Level
		n, most int
		want    int
	}{
		{Free, 10, 5000, 5000}, {Tight, 10, 5000, 100}, {Tight, 10, 50, 50}, {Tight, 0, 5000, 1000}, {Tight, 1 << 20, 5000, 1}, {Spent, 1, 5000, 1},
	} {
		if got := b.Share(tc.level, tc.n, tc.most); got != tc.want {
			t.Errorf("level %v, %d sessions, at most %d: got %d, want %d", tc.level, tc.n, tc.most, got, tc.want)
		}
	}
}

// Parts count into one budget: what is used is exact, however they share it out, and the
// level is that of a figure that is off by a 64th of the limit at most.
func TestPartsCountIntoOne(t *testing.T) {
	for _, parts := range []int{1, 3, 64} {
		const limit = 1 << 20
		b := New(limit, nil)
		all := make([]*Budget, parts)
		for i := range all {
			all[i] = b.Part()
		}
		r := rand.New(rand.NewPCG(1, uint64(parts)))
		used := 0
		for range 20_000 {
			n := r.IntN(8<<10) - min(used, 4<<10)
			used += n
			all[r.IntN(parts)].Add(n)
			if b.Used() != used {
				t.Fatalf("%d parts: %d used, want %d", parts, b.Used(), used)
			}
			if off := b.About() - used; off > limit/64 || off < -limit/64 {
				t.Fatalf("%d parts: off by %d at %d", parts, off, used)
			}
		}
		all[0].Add(limit + limit/64 + 1 - used)
		if b.Level() == Free {
			t.Errorf("%d parts: free at %d of %d", parts, b.Used(), limit)
		}
		for _, p := range all { // as little as it can be told apart from nothing
			p.Add(-b.Used())
		}
		if b.Used() != 0 || b.Level() != Free {
			t.Errorf("%d parts: level %v with %d used", parts, b.Level(), b.Used())
		}
	}
}

// Many parts at once lose nothing, also while the limit is changed.
func TestPartsLoseNothing(t *testing.T) {
	b := New(1<<20, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		p := b.Part()
		for range 2 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(2, uint64(g)))
				for range 20_000 {
					n := r.IntN(32 << 10)
					p.Add(n)
					p.Add(-n)
				}
			})
		}
	}
	for i := range 1000 {
		b.SetLimit(1<<10 + i<<12)
	}
	wg.Wait()
	if b.Used() != 0 || b.Level() != Free {
		t.Errorf("level %v with %d used in the end", b.Level(), b.Used())
	}
}

// What a part adds is its own most of the time: one Add in many reaches what all share.
func TestPartsTouchTheSharedCountSeldom(t *testing.T) {
	b := New(256<<20, nil)
	p := b.Part()
	for range 63 {
		b.Part()
	}
	p.Add(1)
	for range 1000 {
		p.Add(4096)
		p.Add(-4096)
	}
	if n := b.About(); n != 0 {
		t.Errorf("%d bytes have reached the shared count, which 4 KiB come and go beside", n)
	}
}

// A part that is made later takes from what the others may keep back: nobody keeps more
// because it began when there were fewer.
func TestLatePartsKeepToTheShare(t *testing.T) {
	const limit, parts = 64 << 20, 32
	b := New(limit, nil)
	used := 0
	for range parts {
		p := b.Part()
		n := int(b.slack.Load()) // all that it may keep back
		p.Add(n)
		used += n
		if off := used - b.About(); off > limit/64 {
			t.Fatalf("off by %d of %d", off, limit)
		}
	}
	if b.Used() != used {
		t.Errorf("%d used, want %d", b.Used(), used)
	}
}
