package engine

import (
	"net"
	"runtime"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/flight"
)

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
