package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/flight"
)

// inOrder checks that events of f begin with these, in this order, whatever is between.
func inOrder(t *testing.T, f Flight, want ...string) {
	t.Helper()
	at := 0
	for _, e := range f.Events {
		if at < len(want) && strings.HasPrefix(e.String(), want[at]) {
			at++
		}
	}
	if at < len(want) {
		t.Errorf("no %q behind what came before it in\n%v", want[at], f)
	}
	for i := 1; i < len(f.Events); i++ {
		if a, b := f.Events[i-1], f.Events[i]; b.At.Before(a.At.Add(-time.Millisecond)) {
			t.Errorf("%v is noted behind %v, and was before it", b, a)
		}
	}
}

// flightsOf waits for n kept recordings for a reason, the last of which has ended if it does.
func flightsOf(t *testing.T, srv *Server, why string, n int, ended bool) (list []Flight) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d recordings for %s", n, why), func() bool {
		list = nil
		for _, f := range srv.Flights() {
			if f.Why == why && (f.Ended || !ended) {
				list = append(list, f)
			}
		}
		return len(list) >= n
	})
	if len(list) != n {
		t.Errorf("%d recordings for %s, want %d", len(list), why, n)
	}
	return list
}

// A session that ends because its handler panicked leaves what it did up to then, on workers
// and on the loop: the frames before, the one that panicked, the close, the ERROR.
func TestFlightOfAPanic(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			told := make(chan Flight, 4)
			srv := serve(t, Config{Dispatch: d, Recorder: RecorderErrors, OnFlight: func(f Flight) { told <- f }}, &funcs{read: func(s *Session, p codec.Packet) {
				if p.Sub == 9 {
					panic("on purpose")
				}
				echo(s, p)
			}})
			other := dial(t, srv)
			other.send(1, 1, "good")
			other.expect(1, 1, "good")
			c := dial(t, srv)
			c.Write(slices.Concat(frame(1, 1, "aaaa"), frame(1, 1, "bbbb"), frame(1, 1, "cccc"), frame(1, 9, "")))
			for _, body := range []string{"aaaa", "bbbb", "cccc"} {
				c.expect(1, 1, body)
			}
			c.expectError(CodeInternal, 1<<16|9)
			c.expectEOF()
			c.Close()
			f := flightsOf(t, srv, "panic", 1, true)[0]
			inOrder(t, f, "open", "in 1/1 x3, 36 bytes", "in 1/9, 8 bytes", "panic 1/9", "close panic", "error 1/9 internal", "out 1/1 x3, 36 bytes", "out 0/3", "gone")
			if d != Inline {
				inOrder(t, f, "in 1/9", "work after ", "panic")
			} else {
				inOrder(t, f, "panic 1/9", "inline 1/9 x4")
			}
			if f.Reason != ReasonPanic || f.Remote != c.LocalAddr().String() || f.Transport != "tcp" || f.Lost != 0 || time.Since(f.ConnectedAt) > time.Minute {
				t.Errorf("got %v", f)
			}
			select {
			case f := <-told:
				inOrder(t, f, "open", "in 1/9", "panic 1/9", "close panic")
				if f.Why != "panic" {
					t.Errorf("told of %q", f.Why)
				}
			case <-time.After(time.Minute):
				t.Error("OnFlight was not told")
			}
			other.Close()
			waitFor(t, "the good one's end", func() bool { return srv.table.count() == 0 })
			if n := len(srv.Flights()); n != 1 {
				t.Errorf("%d recordings are kept, want that of the bad end only", n)
			}
		})
	}
}

// A callback that stalls is kept while it lasts: the frame that it handles, that its turn
// runs, and its stack is among Stalls. With a pool of the server's own and one that is shared.
func TestFlightOfAStall(t *testing.T) {
	shared, err := NewPool(PoolConfig{Workers: 2, StallAfter: 30 * time.Millisecond, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.Stop(context.Background()) })
	for _, c := range []struct {
		name string
		mode Dispatch
		pool *Pool
	}{{"worker", Ordered, nil}, {"worker", Ordered, shared}, {"loop", Inline, nil}} {
		t.Run(c.name, func(t *testing.T) {
			gate := make(chan struct{})
			srv := serve(t, Config{Dispatch: c.mode, Pool: c.pool, Recorder: RecorderErrors, StallAfter: 30 * time.Millisecond}, &funcs{read: func(s *Session, p codec.Packet) {
				if p.Sub == 4 {
					standStill(gate)
				}
				echo(s, p)
			}})
			cl := dial(t, srv)
			cl.send(1, 1, "before")
			cl.expect(1, 1, "before")
			cl.send(1, 4, "")
			f := flightsOf(t, srv, "stall", 1, false)[0]
			inOrder(t, f, "open", "in 1/1, 14 bytes", "out 1/1, 14 bytes", "in 1/4, 8 bytes", "stall 1/4, ")
			if c.mode == Ordered {
				inOrder(t, f, "in 1/4", "work after ", "stall")
				i := slices.IndexFunc(f.Events, func(e Event) bool { return e.Kind == EventStall })
				if e := f.Events[i-1]; !e.Running || !strings.HasSuffix(e.String(), "still running") {
					t.Errorf("in front of the stall: %v, want a turn that runs", e)
				}
			}
			if f.Ended || f.Reason != 0 {
				t.Errorf("it is said to have ended: %v", f)
			}
			var st []Stall
			waitFor(t, "the report", func() bool { st = srv.Stalls(); return len(st) > 0 })
			if x := st[0]; x.Where != c.name || x.Session != f.Session.String() || x.Main != 1 || x.Sub != 4 || x.For < 30*time.Millisecond ||
				!strings.Contains(x.Stack, "standStill") || time.Since(x.At) > time.Minute {
				t.Errorf("got %+v", x)
			}
			if c.name == "loop" {
				waitFor(t, "the loop's state", func() bool {
					return slices.ContainsFunc(srv.Stats().Loops, func(l LoopStats) bool { return l.InTurn > 30*time.Millisecond })
				})
			}
			if c.mode == Ordered && c.pool == nil {
				held := make(chan struct{})
				srv.Pool().Submit(func() { standStill(held) })
				waitFor(t, "the function's report", func() bool { return len(srv.Stalls()) == 2 })
				if x := srv.Stalls()[1]; x.Session != "" || !strings.Contains(x.Stack, "standStill") {
					t.Errorf("got %+v", x)
				}
				close(held)
			}
			close(gate)
			cl.expect(1, 4, "")
			var live Flight
			waitFor(t, "the note of the answer", func() bool {
				live, _ = srv.Flight(f.Session)
				return slices.ContainsFunc(live.Events, func(e Event) bool { return e.Kind == EventOut && e.Sub == 4 })
			})
			inOrder(t, live, "in 1/4", "stall", "out 1/4, 8 bytes")
			cl.Close()
			waitFor(t, "the end", func() bool { return srv.table.count() == 0 })
			if n := len(srv.Flights()); n != 1 {
				t.Errorf("%d recordings are kept of a stall that ended well, want 1", n)
			}
			if again, ok := srv.Flight(f.Session); !ok || again.Why != "stall" {
				t.Errorf("the kept one is not found: %v", again)
			}
		})
	}
}

func standStill(gate chan struct{}) { <-gate }

// A peer that does not read what it has not asked for: the writes, the one that the kernel
// did not take, the limit that came near, the close.
func TestFlightOfASlowConsumer(t *testing.T) {
	accepted := make(chan *Session, 1)
	srv := serve(t, Config{Recorder: RecorderErrors, Limits: Limits{MaxOutbound: 64 << 10}, Socket: Socket{SocketSendBuffer: 16 << 10}},
		&funcs{accept: func(s *Session) { accepted <- s }})
	c := dial(t, srv)
	s := <-accepted
	body := make([]byte, 1000)
	waitFor(t, "the close", func() bool { s.Push(2, 4, body); return !s.Connected() })
	c.Close()
	f := flightsOf(t, srv, "slow_consumer", 1, true)[0]
	inOrder(t, f, "blocked", "near max_outbound at ", "close slow_consumer", "gone")
	if f.Reason != ReasonSlowConsumer {
		t.Errorf("got %v", f)
	}
	found := false
	for _, e := range f.Events {
		found = found || e.Kind == EventOut && e.Main == 2 && e.Sub == 4 && e.Bytes == 1008*e.Count
	}
	if !found && f.Lost == 0 {
		t.Errorf("no frame written is in\n%v", f)
	}
}

// A kick: what the session did before, and that it was kicked, with the ERROR that it got.
func TestFlightOfAKick(t *testing.T) {
	for _, d := range dispatches {
		srv := serve(t, Config{Dispatch: d, Recorder: RecorderErrors}, &funcs{read: echo})
		c := dial(t, srv)
		c.send(1, 1, "before")
		c.expect(1, 1, "before")
		srv.Sessions(func(s *Session) bool {
			waitFor(t, "the note of the answer", func() bool {
				return slices.ContainsFunc(s.Flight().Events, func(e Event) bool { return e.Kind == EventOut })
			})
			return s.Kick("go away") != nil
		})
		c.expectError(CodeUnauthorised, 0)
		c.expectEOF()
		c.Close()
		f := flightsOf(t, srv, "kicked", 1, true)[0]
		inOrder(t, f, "open", "in 1/1, 14 bytes", "out 1/1, 14 bytes", "close kicked", "error 0/0 unauthorised", "out 0/3", "gone")
		if f.Reason != ReasonKicked {
			t.Errorf("got %v", f)
		}
	}
}

// What is kept is bounded, and the newest: of all that end with RecorderOn, of none without.
func TestKeptFlightsAreTheLast(t *testing.T) {
	for _, mode := range []Recorder{RecorderOff, RecorderErrors, RecorderOn} {
		t.Run(mode.String(), func(t *testing.T) {
			srv := serve(t, Config{Recorder: mode, RecorderKeep: 5}, &funcs{read: echo})
			var ids []ID
			for range 12 {
				c := dial(t, srv)
				c.send(1, 1, "x")
				c.expect(1, 1, "x")
				srv.Sessions(func(s *Session) bool { ids = append(ids, s.ID()); return false })
				live, _ := srv.Flight(ids[len(ids)-1])
				if got := len(live.Events) > 0; got != (mode != RecorderOff) {
					t.Fatalf("%d events", len(live.Events))
				}
				c.Close()
				waitFor(t, "the end", func() bool { return srv.table.count() == 0 })
			}
			var got []ID
			for _, f := range srv.Flights() {
				got = append(got, f.Session)
				inOrder(t, f, "open", "in 1/1, 9 bytes", "out 1/1, 9 bytes", "fin", "close peer_closed")
				if f.Why != "peer_closed" || !f.Ended || !slices.ContainsFunc(f.Events, func(e Event) bool { return e.Kind == EventGone }) {
					t.Errorf("got %v", f)
				}
			}
			want := ids[len(ids)-5:]
			if mode != RecorderOn {
				want = nil
			}
			if !slices.Equal(got, want) {
				t.Errorf("kept %v, want %v", got, want)
			}
		})
	}
}

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

// A session's recorder takes 512 bytes, of the heap and of the budget, which has them back
// when the session has ended; without a recorder it takes nothing.
func TestRecorderMemory(t *testing.T) {
	const sessions = 10_000
	heap := func(mode Recorder) (each float64, budget int) {
		k := newDesk(t, Config{Recorder: mode, RecorderKeep: 1, Dispatch: Inline, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{})
		k.table = newTable(sessions)
		wires := make([]fakeWire, sessions)
		all := make([]Session, sessions)
		used := k.budget.Used()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range all {
			wires[i] = fakeWire{room: -1}
			s := &all[i]
			s.srv, s.loop, s.conn = k.Server, k.l, &wires[i]
			wires[i].s = s
			if !k.l.accept(s) {
				t.Fatal("no slot")
			}
		}
		k.turns()
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		budget = k.budget.Used() - used
		for i := range all {
			k.l.abort(&all[i], ReasonServerClosed)
		}
		k.settleAll()
		if n := k.budget.Used() - used; n != 0 {
			t.Errorf("%v: %d bytes are still counted", mode, n)
		}
		runtime.KeepAlive(wires)
		return float64(after.HeapAlloc-before.HeapAlloc) / sessions, budget
	}
	off, none := heap(RecorderOff)
	on, counted := heap(RecorderErrors)
	t.Logf("a session: %.0f bytes of heap without a recorder, %.0f with one", off, on)
	if none != 0 || counted != sessions*tapCost {
		t.Errorf("the budget counts %d bytes without and %d with, want 0 and %d", none, counted, sessions*tapCost)
	}
	if each := on - off; each > tapCost+8 || each < tapCost/2 {
		t.Errorf("a recorder takes %.0f bytes, want at most %d", each, tapCost)
	}
}

// While memory is short new sessions get no recorder, and all else goes on.
func TestNoRecorderWhileMemoryIsShort(t *testing.T) {
	k := newDesk(t, Config{Recorder: RecorderErrors, RecorderKeep: 1, Dispatch: Inline, Limits: Limits{MemoryBudget: 1 << 16}, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{read: echo})
	var last *Session
	var w *fakeWire
	for range 200 {
		last, w = k.open(-1)
	}
	if n := k.budget.Used(); n > 1<<16+tapCost {
		t.Errorf("%d bytes are counted, of %d", n, 1<<16)
	}
	last.sink().Received(frame(1, 1, "x"))
	if string(w.got) != string(frame(1, 1, "x")) || len(last.Flight().Events) != 0 {
		t.Errorf("got %q, and %d events", w.got, len(last.Flight().Events))
	}
}

// Nothing is allocated for events, whatever happens to a session.
func TestRecorderAllocatesNothing(t *testing.T) {
	if slack > 1 {
		t.Skip("the race detector allocates")
	}
	var frames []byte
	for i := range 12 {
		frames = append(frames, frame(1, uint16(i%3), "0123456789")...)
	}
	for _, d := range []Dispatch{Inline, Ordered} {
		per := map[Recorder]float64{}
		for _, mode := range []Recorder{RecorderOff, RecorderOn} {
			k := newDesk(t, Config{Recorder: mode, Dispatch: d, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{read: echo})
			s, w := k.open(-1)
			w.blind = true
			k.settleAll()
			in := s.sink()
			turn := func() {
				done := w.writes
				in.Received(frames[:len(frames)-5])
				in.Received(frames[len(frames)-5:])
				for w.writes < done+2 && d == Inline || !s.in.Quiet() || k.turn() {
					runtime.Gosched()
				}
				s.note(flight.Pause, 1, 0)
			}
			for range 100 {
				turn()
			}
			per[mode] = testing.AllocsPerRun(300, turn)
		}
		if per[RecorderOn] > per[RecorderOff] {
			t.Errorf("%v: %v allocations with a recorder, %v without", d, per[RecorderOn], per[RecorderOff])
		}
	}
}

// resumed sessions: what is noted goes on through their connections.
func TestFlightOfASessionThatComesBack(t *testing.T) {
	show := &shown{}
	srv := serve(t, Config{Recorder: RecorderOn, Tap: show, Timeouts: Timeouts{Resume: time.Minute}}, &funcs{read: echo})
	c := dial(t, srv)
	c.Write(frame(0, SubHello, "\x01\x00"))
	p, err := c.read()
	if err != nil || p.Sub != SubWelcome {
		t.Fatal(p, err)
	}
	token := string(p.Body[1:17])
	c.send(1, 1, "one")
	c.expect(1, 1, "one")
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
	waitFor(t, "the break", func() bool { return srv.Stats().Waiting == 1 })
	c = dial(t, srv)
	c.Write(frame(0, SubHello, "\x01\x00"+token+"\x00\x00\x00\x00\x00\x00\x00\x01"))
	if p, err := c.read(); err != nil || p.Sub != SubWelcome || p.Body[0] != 1 {
		t.Fatal(p, err)
	}
	c.send(1, 1, "two")
	c.expect(1, 1, "two")
	c.send(0, SubBye, "")
	c.Close()
	waitFor(t, "the end", func() bool { return srv.table.count() == 0 })
	f := flightsOf(t, srv, "peer_closed", 1, true)[0]
	inOrder(t, f, "open", "in 1/1, 11 bytes", "out 1/1, 11 bytes", "away", "back", "in 1/1, 11 bytes", "out 1/1, 11 bytes", "close peer_closed")
	show.mu.Lock()
	defer show.mu.Unlock()
	if want := string(frame(1, 1, "one")) + string(frame(1, 1, "two")); string(show.in) != want {
		t.Errorf("the Tap was shown %q, want %q", show.in, want)
	}
}

// BenchmarkRecordedTurn is BenchmarkInlineTurn as the network begins it, without and with a
// recorder.
func BenchmarkRecordedTurn(b *testing.B) {
	for _, mode := range []Recorder{RecorderOff, RecorderErrors} {
		b.Run(mode.String(), func(b *testing.B) {
			k := newDesk(b, Config{Recorder: mode, Dispatch: Inline, Timeouts: Timeouts{FirstFrameTimeout: Off}}, &funcs{read: echo})
			s, w := k.open(-1)
			w.blind = true
			k.settleAll()
			var frames []byte
			for range 32 {
				frames = codec.Packet{Main: 1, Sub: 1, Body: make([]byte, 64)}.Append(frames)
			}
			in := s.sink()
			b.ReportAllocs()
			for b.Loop() {
				in.Received(frames)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*32), "ns/frame")
		})
	}
}
