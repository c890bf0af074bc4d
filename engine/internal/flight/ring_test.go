package flight

import (
	"flag"
	"reflect"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// A ring, with what else a session's takes, is one block of 512 bytes.
func TestRingSize(t *testing.T) {
	if n := unsafe.Sizeof(Ring{}); n > 480 {
		t.Errorf("a ring has %d bytes, want at most 480", n)
	}
}

func TestKindsHaveNamesThatReadBack(t *testing.T) {
	seen := map[string]bool{}
	for k := Open; k < kinds; k++ {
		b, err := k.MarshalText()
		var back Kind
		if err != nil || seen[string(b)] || back.UnmarshalText(b) != nil || back != k {
			t.Errorf("kind %d is %q and reads back as %d", k, b, back)
		}
		seen[string(b)] = true
	}
	if kinds > 1<<kindBits {
		t.Errorf("%d kinds don't fit %d bits", kinds, kindBits)
	}
	var k Kind
	if err := k.UnmarshalText([]byte("in_the_end")); err == nil {
		t.Error("a kind that is none was read")
	}
}

// model is a ring that never forgets, written the plain way.
type model struct {
	all    []Event
	queued int64
}

func (m *model) last() *Event {
	if len(m.all) == 0 {
		return nil
	}
	return &m.all[len(m.all)-1]
}

func (m *model) events() []Event {
	return m.all[max(0, len(m.all)-Events):]
}

// Whatever is noted, the ring holds what a list of all events ends with.
func TestRingIsTheEndOfAllEvents(t *testing.T) {
	flag.Set("rapid.nofailfile", "true")
	rapid.Check(t, func(t *rapid.T) {
		var r Ring
		m := &model{}
		now := int64(0)
		var turns []uint64
		small := rapid.Uint32Range(0, 3)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				k, a, b := Kind(rapid.IntRange(int(Block), int(Pause)).Draw(t, "kind")), small.Draw(t, "a"), small.Draw(t, "b")
				r.Add(now, k, a, b)
				if l := m.last(); l != nil && l.Kind == k && l.A == a && l.B == b && l.Count < mostCount {
					l.Count++
				} else {
					m.all = append(m.all, Event{now / 1000 * 1000, k, 1, a, b})
				}
			},
			"sum": func(t *rapid.T) {
				k, a, b := Kind(rapid.IntRange(int(In), int(Part)).Draw(t, "kind")), small.Draw(t, "a"), rapid.Uint32().Draw(t, "b")
				n := rapid.SampledFrom([]int{1, 2, mostCount / 2, mostCount/2 + 1, mostCount, 10_000}).Draw(t, "count")
				r.Sum(now, k, a, b, n)
				n = min(n, mostCount)
				if l := m.last(); l != nil && l.Kind == k && l.A == a && l.Count+n <= mostCount && uint64(l.B)+uint64(b) < 1<<32 {
					l.Count += n
					l.B += b
				} else {
					m.all = append(m.all, Event{now / 1000 * 1000, k, n, a, b})
				}
			},
			"queue": func(*rapid.T) {
				r.Queue(now)
				m.queued = now
			},
			"begin": func(*rapid.T) {
				turns = append(turns, r.Begin(now))
				wait := int64(0)
				if m.queued != 0 {
					wait = (now - m.queued) / 1000
				}
				m.queued = 0
				m.all = append(m.all, Event{now / 1000 * 1000, Work, 1, uint32(wait), Running})
			},
			"end": func(t *rapid.T) {
				if len(turns) == 0 {
					return
				}
				turn := turns[rapid.IntRange(0, len(turns)-1).Draw(t, "turn")]
				r.End(turn, now)
				if int(turn) >= len(m.all)-Events {
					e := &m.all[turn]
					e.B = uint32((now - e.At) / 1000)
				}
			},
			"pass": func(t *rapid.T) { now += rapid.Int64Range(1, 5_000_000_000).Draw(t, "nanoseconds") },
			"": func(t *rapid.T) {
				var s Saved
				r.Save(&s)
				got, lost := s.Events(nil)
				want := m.events()
				if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
					t.Fatalf("got  %v\nwant %v", got, want)
				}
				if int(lost) != len(m.all)-len(want) {
					t.Fatalf("%d are said to be lost, want %d", lost, len(m.all)-len(want))
				}
			},
		})
	})
}

// A turn so long that the field can't say it, and a clock that goes back, stay numbers.
func TestTimesAreBounded(t *testing.T) {
	var r Ring
	r.Queue(1)
	turn := r.Begin(1 << 62)
	var s Saved
	r.Save(&s)
	if e, _ := s.Events(nil); e[0].A != Running-1 || e[0].B != Running {
		t.Errorf("got %+v", e[0])
	}
	r.End(turn, 0)
	r.Save(&s)
	if e, _ := s.Events(nil); e[0].B != 0 {
		t.Errorf("a turn that ended before it began took %d", e[0].B)
	}
	const years = int64(2 * 365 * 24 * 3600 * 1e9)
	r.Add(years, Open, 0, 0)
	r.Save(&s)
	if e, _ := s.Events(nil); e[1].At != years || e[1].Kind != Open || e[1].Count != 1 {
		t.Errorf("after two years: got %+v", e[1])
	}
}

// Many may add while others look, and none of it allocates.
func TestRingIsSharedAndAllocatesNothing(t *testing.T) {
	var r Ring
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 2000 {
				now := int64(i) * 1000
				r.Sum(now, In, uint32(g), 8, 1)
				r.Queue(now)
				turn := r.Begin(now)
				r.Add(now, Close, 0, 0)
				r.End(turn, now)
			}
		}()
	}
	var s Saved
	buf := make([]Event, 0, Events)
	for range 100 {
		r.Save(&s)
		events, _ := s.Events(buf)
		for _, e := range events {
			if e.Kind == In && e.B != 8*uint32(e.Count) {
				t.Fatalf("%d frames of 8 bytes have %d", e.Count, e.B)
			}
		}
	}
	wg.Wait()
	if n := testing.AllocsPerRun(1000, func() {
		r.Sum(1, In, 1, 8, 1)
		r.Queue(2)
		r.End(r.Begin(3), 4)
		r.Sum(5, Out, 1, 8, 1)
		r.Add(6, Pause, 1, 0)
		r.Save(&s)
	}); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
}

func BenchmarkTurn(b *testing.B) {
	var r Ring
	b.ReportAllocs()
	for b.Loop() {
		r.Sum(1, In, 1, 8, 32)
		r.Sum(2, Inline, 1, 8, 32)
		r.Sum(3, Out, 1, 8, 32)
	}
}
