package live

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/engine"
)

var start = time.Date(2030, 1, 2, 3, 0, 0, 0, time.UTC)

// server is one whose counters a test moves by hand, sampled each second.
type server struct {
	testing.TB
	rec *Recorder
	now time.Time
	Sample
}

func newServer(t testing.TB) *server {
	s := &server{TB: t, rec: NewRecorder(), now: start}
	s.Engine = engine.Stats{Closes: map[engine.Reason]uint64{}, Refused: map[engine.Refusal]uint64{}, Limited: map[engine.Throttle]uint64{}, Loops: make([]engine.LoopStats, 2), Pool: engine.PoolStats{Workers: 4, Idle: 4}}
	s.tick(1)
	return s
}

// tick takes n samples of what is now, after having had move, if any, change it each time.
func (s *server) tick(n int, move ...func()) {
	for range n {
		for _, f := range move {
			f()
		}
		c := s.Sample
		c.At = s.now
		c.Engine.Closes, c.Engine.Refused = copyOf(c.Engine.Closes), copyOf(c.Engine.Refused)
		c.Engine.Limited = copyOf(c.Engine.Limited)
		c.Engine.Loops, c.Handles, c.Limits, c.Backs = slices.Clone(c.Engine.Loops), slices.Clone(c.Handles), slices.Clone(c.Limits), slices.Clone(c.Backs)
		s.rec.Add(c)
		s.now = s.now.Add(time.Second)
	}
}

func copyOf[K comparable](m map[K]uint64) map[K]uint64 {
	out := map[K]uint64{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// found are the kinds and whats of the findings.
func (s *server) found() (all []string) {
	for _, f := range s.rec.View(0, 0).Findings {
		all = append(all, f.Level+" "+f.Kind+" "+f.What)
	}
	return all
}

func TestNothingIsWrongWithAServerThatWorks(t *testing.T) {
	s := newServer(t)
	s.Limits = []Limit{{Flag: "max-conns", Used: 89, Max: 100}, {Flag: "max-conns-per-ip"}}
	s.Handles = []Handle{{Name: "1/1"}}
	s.tick(20, func() {
		s.Engine.Accepts += 1000
		s.Engine.Closes[engine.ReasonPeerClosed] += 900
		s.Engine.Closes[engine.ReasonPeerReset] += 10
		s.Engine.Closes[engine.ReasonServerClosed] += 10
		s.Engine.FramesIn += 50_000
		s.Handles = []Handle{{Name: "1/1", Requests: s.Engine.FramesIn, Run: Hist{{0.0001, s.Engine.FramesIn}}}}
		s.Wait = Hist{{0.001, s.Engine.FramesIn}}
	})
	if got := s.found(); got != nil {
		t.Errorf("found %q", got)
	}
}

func TestFindingsNameWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		move func(s *server)
		want string
		text string // part of how it stands
	}{
		{"not ready", func(s *server) { s.Reasons = []string{"database: away"} }, "bad down database: away", "not ready"},
		{"draining", func(s *server) { s.Engine.Draining, s.Engine.Conns, s.Reasons = true, 7, []string{"draining"} }, "warn down draining", "7 sessions left"},
		{"a part that is away", func(s *server) { s.Backs = []Back{{Name: "cluster", Down: "no answer"}} }, "bad down cluster", "no answer"},
		{"panics", func(s *server) { s.Engine.Closes[engine.ReasonPanic]++ }, "bad failing panic", "1 a second"},
		{"slow consumers", func(s *server) { s.Engine.Closes[engine.ReasonSlowConsumer] += 3 }, "warn failing slow_consumer", "3 a second"},
		{"bytes lost", func(s *server) { s.Engine.LostBytes += 10 }, "warn failing bytes lost", "B were not sent"},
		{"a part's own fault", func(s *server) {
			s.Backs = []Back{{Name: "timers", Values: []Value{{Name: "panics", Value: seconds(s), Total: true, Bad: true}}}}
		}, "warn failing timers: panics", "a second"},
		{"too many connections", func(s *server) { s.Engine.Refused[engine.RefusedConns] += 12 }, "bad refused max_conns", "12 a second"},
		{"too many of an address", func(s *server) { s.Engine.Refused[engine.RefusedPerIP]++ }, "warn refused max_conns_per_ip", "1 a second"},
		{"accept fails", func(s *server) { s.Engine.AcceptErrs++ }, "bad refused accept failed", "1 a second"},
		{"the pool is full", func(s *server) { s.Engine.Pool.Refused += 2 }, "bad refused pool", "2 a second"},
		{"sends are refused", func(s *server) { s.Engine.Busy++ }, "warn refused busy", "1 a second"},
		{"a limit that is full", func(s *server) { s.Limits = []Limit{{Flag: "max-conns", Used: 100, Max: 100}} }, "bad full max-conns", "100 of 100"},
		{"a limit that is nearly full", func(s *server) {
			s.Limits = []Limit{{Flag: "memory-budget", Used: 92 << 20, Max: 100 << 20, Bytes: true}}
		}, "warn full memory-budget", "92.0 MiB of 100 MiB, 92 %"},
		{"a limit that came near", func(s *server) {
			s.Limits = []Limit{{Flag: "max-pending", Used: 1, Max: 100, Near: uint64(seconds(s)), Counted: true, Who: "3.1"}}
		}, "warn full max-pending", ", 3.1"},
		{"requests that waited too long", func(s *server) { s.Engine.Limited[engine.ThrottleWait] += 9 }, "warn refused wait_budget", "9 a second"},
		{"a session that is too fast", func(s *server) { s.Engine.Limited[engine.ThrottleFrameRate] += 3 }, "warn paused frame_rate", "3 a second"},
		{"not read for memory", func(s *server) { s.Engine.Starving = 4 }, "bad paused memory budget", "4 sessions"},
		{"reading pauses", func(s *server) { s.Engine.Loops[1].Pauses += 5 }, "warn paused reading", "5 a second"},
		{"strands wait", func(s *server) { s.Engine.Parks++ }, "warn paused outboxes", "1 a second"},
		{"stalls on loops", func(s *server) { s.Engine.Stalls++ }, "bad slow stalls", "1 a second"},
		{"stalls on workers", func(s *server) { s.Engine.Pool.Stalls++ }, "bad slow stalls", "1 a second"},
		{"a loop that stands still", func(s *server) { s.Engine.Loops[1].Late = 3 * time.Second }, "bad slow loop 1", "for 3s"},
		{"all workers block", func(s *server) { s.Engine.Pool.Blocked, s.Engine.Pool.Sessions = 4, 9 }, "bad slow workers", "4 of 4 blocked, 9 sessions"},
		{"requests wait", func(s *server) { s.Wait = Hist{{0.001, 10}, {0.2, 10 * uint64(seconds(s))}} }, "warn slow waiting", "200ms"},
		{"a slow handle", func(s *server) {
			s.Handles = []Handle{{Name: "1/4", Requests: 5, Run: Hist{{0.001, 3}, {0.5, uint64(seconds(s))}}}}
		}, "warn slow handle 1/4", "p99 500ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			s.tick(5)
			s.tick(window+1, func() { c.move(s) })
			list := s.rec.View(0, 0).Findings
			if got := s.found(); !slices.Equal(got, []string{c.want}) {
				t.Fatalf("found %q, want %q", got, c.want)
			}
			if f := list[0]; !strings.Contains(f.Text, c.text) {
				t.Errorf("says %q, want %q in it", f.Text, c.text)
			}
		})
	}
}

// seconds is how often the server was sampled, a number that grows.
func seconds(s *server) float64 { return s.now.Sub(start).Seconds() }

func TestWhatIsWorstComesFirst(t *testing.T) {
	s := newServer(t)
	s.tick(3, func() {
		s.Engine.Parks++
		s.Engine.Busy++
		s.Engine.Stalls++
		s.Engine.Refused[engine.RefusedFiles]++
		s.Reasons = []string{"database: away"}
	})
	want := []string{"bad down database: away", "bad refused open_files", "bad slow stalls", "warn refused busy", "warn paused outboxes"}
	if got := s.found(); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestAFindingBeginsOnceAndIsOverOnce(t *testing.T) {
	s := newServer(t)
	refuse := func() { s.Engine.Refused[engine.RefusedConns] += 100 }
	s.tick(3, refuse)
	began := s.now.Add(-3 * time.Second).UnixMilli()
	s.tick(30, refuse)
	if f := s.rec.View(0, 0).Findings; len(f) != 1 || f[0].Since != began {
		t.Fatalf("found %+v, want one since %d", f, began)
	}
	s.tick(window - 1)
	if f := s.found(); len(f) != 1 {
		t.Errorf("%d s after the last refusal: found %q, want it still", window-1, f)
	}
	s.tick(1)
	if f := s.found(); f != nil {
		t.Errorf("%d s after the last refusal: found %q", window, f)
	}
	s.rec.Event(s.now, Info, "kick", "3.1 by hand")
	var got []string
	for _, e := range s.rec.View(0, 0).Events {
		got = append(got, e.Level+" "+e.Kind+" "+e.Text)
	}
	want := []string{"bad refused max_conns: connections refused: 100 a second", "info refused max_conns: over after 42s", "info kick 3.1 by hand"}
	if !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

func TestOnlyWhatIsNewIsToldAgain(t *testing.T) {
	s := newServer(t)
	s.tick(5)
	s.rec.Event(s.now, Info, "drain", "begun")
	v := s.rec.View(0, 0)
	if len(v.History) != 5 || len(v.Events) != 1 {
		t.Fatalf("%d points and %d events, want 5 and 1", len(v.History), len(v.Events))
	}
	s.tick(2)
	s.rec.Event(s.now, Info, "drain", "begun") // again: counted, not a line more
	w := s.rec.View(v.Seq, v.EventSeq)
	if len(w.History) != 2 || w.History[0].Seq != v.Seq+1 {
		t.Errorf("points %+v, want the two after %d", w.History, v.Seq)
	}
	if len(w.Events) != 1 || w.Events[0].N != 2 {
		t.Errorf("events %+v, want one that came twice", w.Events)
	}
	if again := s.rec.View(w.Seq, w.EventSeq); len(again.History)+len(again.Events) != 0 {
		t.Errorf("told again: %+v", again)
	}
	if other := s.rec.View(w.Seq+1000, w.EventSeq+1000); len(other.History) != 7 || len(other.Events) != 1 {
		t.Errorf("to one that has seen another process: %d points and %d events, want all", len(other.History), len(other.Events))
	}
}

func TestRatesAndQuantilesAreOfTheLastSeconds(t *testing.T) {
	s := newServer(t)
	s.Handles = []Handle{{Name: "1/1", Requests: 1e6, Run: Hist{{0.001, 1000}, {5, 1000}}}} // long ago
	s.tick(window + 1)
	s.tick(window, func() {
		h := s.Handles[0]
		h.Requests += 500
		h.Run = Hist{{0.001, 1000}, {0.002, h.Run.count() - 2000 + 90}, {5, 1000}}
		h.Errors += 2
		s.Handles = []Handle{h}
		s.Engine.Loops[0].FramesIn += 500
		s.Engine.FramesIn += 500
		s.CPU += 1500 * time.Millisecond
	})
	v := s.rec.View(0, 0)
	h := v.Handles[0]
	if h.Requests != 500 || h.Errors != 2 || h.P50 != 2 || h.P99 != 2 || h.Total != 1e6+500*window {
		t.Errorf("the handle is %+v, want 500 requests and 2 errors a second, all within 2 ms", h)
	}
	if want := 500 * 0.002; math.Abs(h.Busy-want) > 1e-9 {
		t.Errorf("it keeps %v goroutines busy, want %v", h.Busy, want)
	}
	if v.Loops[0].Frames != 500 || v.Loops[1].Frames != 0 {
		t.Errorf("the loops are %+v, want 500 frames a second in the first alone", v.Loops)
	}
	last := v.History[len(v.History)-1]
	if last.Frames != 500 || last.CPU != 1.5 || last.RunP99 != 2 {
		t.Errorf("the last second is %+v, want 500 frames, 1.5 CPUs and 2 ms", last)
	}
}

func TestACounterThatShrinksIsOfANewServer(t *testing.T) {
	s := newServer(t)
	s.Engine.FramesIn, s.Engine.Refused[engine.RefusedConns] = 1000, 1000
	s.tick(2)
	s.Engine.FramesIn, s.Engine.Refused[engine.RefusedConns] = 10, 10
	s.tick(1)
	v := s.rec.View(0, 0)
	if p := v.History[len(v.History)-1]; p.Frames != 0 || p.Refused != 0 {
		t.Errorf("%+v, want no rates", p)
	}
}

func TestNearMissesAreCountedOnceEach(t *testing.T) {
	s := newServer(t)
	for _, used := range []int64{10, 95, 96, 50, 91, 20} {
		s.Limits = []Limit{{Flag: "max-conns", Used: used, Max: 100}}
		s.tick(1)
	}
	l := s.rec.View(0, 0).Limits[0]
	if want := s.now.Add(-2 * time.Second).UnixMilli(); l.Near != 2 || l.Last != want {
		t.Errorf("%+v, want two near misses, the last at %d", l, want)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	s := newServer(t)
	s.Engine.Loops = make([]engine.LoopStats, 4)
	i := 0
	s.tick(1000, func() {
		i++
		s.rec.Event(s.now, Warn, "test", fmt.Sprint("event ", i))
		s.Handles = nil
		for h := range 100 {
			s.Handles = append(s.Handles, Handle{Name: fmt.Sprint("9/", h), Requests: uint64(i * h)})
		}
	})
	v := s.rec.View(0, 0)
	if len(v.History) != keep || len(v.Events) != maxEvents || len(v.Handles) != mostHandles || v.Others != 100-mostHandles {
		t.Errorf("%d points, %d events, %d handles and %d others", len(v.History), len(v.Events), len(v.Handles), v.Others)
	}
	if v.Handles[0].Handle != "9/99" || v.Events[maxEvents-1].Text != "event 1000" || v.History[keep-1].Seq != v.Seq {
		t.Errorf("the busiest handle is %s, the last event %q", v.Handles[0].Handle, v.Events[maxEvents-1].Text)
	}
	if n := len(s.rec.samples); n != window+1 {
		t.Errorf("%d samples are kept, want %d", n, window+1)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 128<<10 {
		t.Errorf("the whole view takes %d bytes", len(b))
	}
	if b, _ = json.Marshal(s.rec.View(v.Seq-1, v.EventSeq)); len(b) > 16<<10 {
		t.Errorf("what is new each second takes %d bytes", len(b))
	}
}

func TestListsAreListsInJSON(t *testing.T) {
	b, err := json.Marshal(NewRecorder().View(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	s.tick(2)
	c, err := json.Marshal(s.rec.View(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range [][]byte{b, c} {
		if strings.Contains(string(j), "null") {
			t.Errorf("a null where the page reads a list: %s", j)
		}
	}
}

func TestQuantiles(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		h    Hist
		q    float64
		want float64
	}{
		{nil, 0.99, 0},
		{Hist{{1, 0}}, 0.5, 0},
		{Hist{{1, 1}}, 0.5, 1},
		{Hist{{1, 50}, {2, 50}}, 0.5, 1},
		{Hist{{1, 49}, {2, 51}}, 0.5, 2},
		{Hist{{1, 99}, {2, 1}}, 0.99, 1},
		{Hist{{1, 98}, {2, 2}}, 0.99, 2},
		{Hist{{1, 1}, {inf, 99}}, 0.99, 2},
	} {
		if got := c.h.quantile(c.q); got != c.want {
			t.Errorf("%v of %v is %v, want %v", c.q, c.h, got, c.want)
		}
	}
	got := Hist{{1, 5}, {2, 7}, {4, 1}}.since(Hist{{1, 5}, {3, 9}, {4, 0}})
	if want := (Hist{{2, 7}, {4, 1}}); !slices.Equal(got, want) {
		t.Errorf("since: %v, want %v", got, want)
	}
	if got, want := merge(Hist{{1, 5}, {4, 1}}, Hist{{1, 2}, {2, 3}}), (Hist{{1, 7}, {2, 3}, {4, 1}}); !slices.Equal(got, want) {
		t.Errorf("merge: %v, want %v", got, want)
	}
}

// Stalls and near misses come in crowds: they have half of the log at most, and what is rare
// stays.
func TestCrowdsDoNotPushOutWhatIsRare(t *testing.T) {
	r := NewRecorder()
	at := time.Unix(1000, 0)
	r.Event(at, Info, "kick", "somebody")
	for i := range 1000 {
		kind := []string{Stalled, Near}[i%2]
		r.Event(at.Add(time.Duration(i)*time.Millisecond), Warn, kind, fmt.Sprint("number ", i))
	}
	v := r.View(0, 0)
	if len(v.Events) != 1+maxNoted || v.Events[0].Kind != "kick" || v.Events[1].Text != fmt.Sprint("number ", 1000-maxNoted) || v.Events[maxNoted].Text != "number 999" {
		t.Errorf("%d events, the first %+v, the last %+v", len(v.Events), v.Events[:2], v.Events[len(v.Events)-1])
	}
	for i := range 2 * maxEvents {
		r.Event(at, Info, "drain", fmt.Sprint("number ", i))
	}
	if v = r.View(0, 0); len(v.Events) != maxEvents || v.Events[0].Text != fmt.Sprint("number ", maxEvents) {
		t.Errorf("%d events, the first %+v", len(v.Events), v.Events[0])
	}
	r.Event(at, Warn, Near, "one more")
	if v = r.View(0, v.EventSeq); len(v.Events) != 1 || v.Events[0].Text != "one more" {
		t.Errorf("what is new: %+v", v.Events)
	}
}
