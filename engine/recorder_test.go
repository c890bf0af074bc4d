package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
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
			inOrder(t, f, "open", "in 1/1 x3, 36 bytes", "in 1/9, 8 bytes", "panic 1/9", "close panic", "error 1/9 internal", "out 0/3", "gone")
			inOrder(t, f, "in 1/1 x3", "out 1/1", "out 0/3") // in front of the panic, if the machine held that up
			if d != Inline {
				inOrder(t, f, "in 1/9", "panic")
				inOrder(t, f, "work after ", "panic") // a worker may begin before the loop has noted all that it read
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

// Stop waits for the hooks that are still to be told, but not for one that blocks.
func TestStopWaitsForHooks(t *testing.T) {
	for _, blocks := range []bool{false, true} {
		gate := make(chan struct{})
		var told, over atomic.Int32
		srv := serve(t, Config{Recorder: RecorderErrors, OnFlight: func(Flight) {
			told.Add(1)
			if blocks {
				<-gate
			}
			time.Sleep(150 * time.Millisecond)
			over.Add(1)
		}}, &funcs{read: func(*Session, codec.Packet) { panic("on purpose") }})
		for range 3 {
			c := dial(t, srv)
			c.send(1, 9, "")
			c.expectError(CodeInternal, 1<<16|9)
			c.expectEOF()
			c.Close()
		}
		ctx, cancel := context.WithCancel(t.Context())
		if blocks {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		if err := srv.Stop(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		if n := over.Load(); !blocks && n != 3 {
			t.Errorf("Stop returned behind %d of 3 hooks", n)
		}
		if n := told.Load(); blocks && n != 1 {
			t.Errorf("%d hooks were called at once", n)
		}
		close(gate)
		waitFor(t, "the hooks", func() bool { return over.Load() == 3 })
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
				// It may be the turn that has answered what came before.
				i := slices.IndexFunc(f.Events, func(e Event) bool { return e.Kind == EventStall })
				if !slices.ContainsFunc(f.Events[:i], func(e Event) bool { return e.Running && strings.HasSuffix(e.String(), "still running") }) {
					t.Errorf("in front of the stall is no turn that runs: %v", f.Events[:i])
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
