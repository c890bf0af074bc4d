package engine

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/flight"
)

// What comes in pieces is noted as such, and a frame once, when it is whole; of many frames
// together the first are told one by one.
func TestFramesAreNotedOnceAndWhole(t *testing.T) {
	for _, d := range []Dispatch{Ordered, Inline} {
		k := newDesk(t, Config{Dispatch: d, Recorder: RecorderOn, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{})
		s, _ := k.open(-1)
		k.settleAll()
		in := s.sink()
		whole := frame(1, 1, strings.Repeat("x", 92))
		in.Received(whole[:6])
		in.Received(whole[6:50])
		in.Received(slices.Concat(whole[50:], frame(2, 1, ""), whole[:3]))
		in.Received(whole[3:])
		k.settleAll()
		f := s.Flight()
		inOrder(t, f, "open", "part x2, 50 bytes", "in 1/1, 100 bytes", "in 2/1, 8 bytes", "part", "in 1/1, 100 bytes")
		frames, bytes := 0, 0
		for _, e := range f.Events {
			if e.Kind == EventIn {
				frames += e.Count
				bytes += e.Bytes
			}
		}
		if frames != 3 || bytes != 208 {
			t.Errorf("%d frames of %d bytes, want 3 of 208, in\n%v", frames, bytes, f)
		}
		var many []byte
		for i := range 20 {
			many = append(many, frame(3, uint16(i/2), "")...)
		}
		in.Received(many)
		inOrder(t, s.Flight(), "in 3/0 x2, 16 bytes", "in 3/1 x2, 16 bytes", "in_more, 128 bytes")
		k.settleAll()
	}
}

// However the kernel cuts what is written, each frame is noted once, and a Tap is shown where
// the rest of a cut frame ends.
func TestWritesThatAreCutAreNotedWhole(t *testing.T) {
	check(t, func(rt *rapid.T) {
		show := &shown{}
		k := newDesk(t, Config{Dispatch: Inline, Recorder: RecorderOn, Tap: show, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{})
		s, _ := k.open(-1)
		tap := s.tap()
		var pending, all []byte
		frames := 0
		noted := 0
		count := func() {
			for _, e := range s.Flight().Events {
				if e.Kind == EventOut {
					noted += e.Count
				}
			}
			tap.ring = flight.Ring{Cut: tap.ring.Cut}
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			for range rapid.IntRange(0, lookMost).Draw(rt, "frames") {
				pending = append(pending, frame(1, 1, strings.Repeat("x", rapid.IntRange(0, 300).Draw(rt, "body")))...)
				frames++
			}
			if len(pending) == 0 {
				continue
			}
			n := len(pending)
			if rapid.Bool().Draw(rt, "cut") {
				n = rapid.IntRange(0, len(pending)).Draw(rt, "taken")
			}
			tap.wrote(pending, n)
			all = append(all, pending[:n]...)
			pending = pending[n:]
			count()
			if int(tap.ring.Cut) > len(pending) {
				rt.Fatalf("%d bytes are to come of a frame, and %d of all", tap.ring.Cut, len(pending))
			}
		}
		tap.wrote(pending, len(pending))
		all = append(all, pending...)
		count()
		if string(show.out) != string(all) {
			rt.Fatalf("the Tap was shown %d bytes, want %d", len(show.out), len(all))
		}
		if noted > frames || tap.ring.Cut != 0 {
			rt.Fatalf("%d frames noted, want %d; %d bytes to come", noted, frames, tap.ring.Cut)
		}
		for _, at := range show.cuts {
			if n := wholeIn(codec.Default(), all[:at]); n != at {
				rt.Fatalf("a frame is said to begin at %d, and one does at %d", at, n)
			}
		}
	})
}

// shown is a Tap that keeps all.
type shown struct {
	mu      sync.Mutex
	in, out []byte
	cuts    []int // where frames begin in out
	calls   []string
}

func (x *shown) Opened(*Session, time.Time) { x.call("opened") }
func (x *shown) Read(_ *Session, _ time.Time, b []byte) {
	x.mu.Lock()
	x.in = append(x.in, b...)
	x.mu.Unlock()
	x.call("read")
}
func (x *shown) Wrote(_ *Session, _ time.Time, b []byte, cut int) {
	x.mu.Lock()
	if cut < len(b) {
		x.cuts = append(x.cuts, len(x.out)+cut)
	}
	x.out = append(x.out, b...)
	x.mu.Unlock()
	x.call("wrote")
}
func (x *shown) Closed(_ *Session, _ time.Time, why Reason) { x.call("closed " + why.String()) }
func (x *shown) call(s string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.calls = append(x.calls, s)
}

// Timers, queries and functions are told apart.
func TestSubmittersAreToldApart(t *testing.T) {
	k := newDesk(t, Config{Recorder: RecorderOn, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{})
	s, _ := k.open(-1)
	for _, kind := range []EventKind{EventTimer, EventQuery, EventTask} {
		sub := s.Submitter(kind)
		if sub != s.Submitter(kind) {
			t.Errorf("two submitters for %v", kind)
		}
		for range 2 {
			if err := sub.Submit(func() {}); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.settleAll()
	inOrder(t, s.Flight(), "timer", "query", "task")
	if n := testing.AllocsPerRun(100, func() { s.Submitter(EventTimer) }); n != 0 {
		t.Errorf("Submitter allocates %v times", n)
	}
}

// Each reason for which nothing is read has its name.
func TestPausesSayWhy(t *testing.T) {
	k := newDesk(t, Config{Recorder: RecorderOn, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{})
	s, _ := k.open(-1)
	for _, p := range pauseNames {
		s.note(flight.Pause, uint32(p.bit), 0)
	}
	s.note(flight.Pause, uint32(PauseOutbound|PauseRate), 0)
	inOrder(t, s.Flight(), "pause max_outbound", "pause max_pending", "pause memory_budget", "pause rate", "pause max_outbound,rate")
}

// A recording reads as text and as JSON, with the same events.
func TestFlightAsTextAndJSON(t *testing.T) {
	srv := serve(t, Config{Recorder: RecorderOn, Dispatch: Ordered}, &funcs{read: echo})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	var f Flight
	srv.Sessions(func(s *Session) bool { f = s.Flight(); return false })
	text := f.String()
	for _, want := range []string{"session " + f.Session.String() + ", tcp from " + c.LocalAddr().String(), "  open\n", "  in 1/1, 9 bytes\n", "  work after "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Session, Addr, Transport string
		Ended                    bool
		Events                   []struct {
			At               time.Time
			Event, Handle    string
			Count, Bytes     int
			Wait_us, Took_us int
			Detail           string
		}
	}
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if back.Session != f.Session.String() || back.Addr != f.Remote || len(back.Events) != len(f.Events) {
		t.Errorf("got %s", b)
	}
	for i, e := range back.Events {
		if e.Event != f.Events[i].Kind.String() || e.Count != f.Events[i].Count || e.Bytes != f.Events[i].Bytes || !e.At.Equal(f.Events[i].At) {
			t.Errorf("event %d: got %+v, want %v", i, e, f.Events[i])
		}
		if e.Event == "in" && e.Handle != "1/1" {
			t.Errorf("a handle of %q", e.Handle)
		}
	}
}
