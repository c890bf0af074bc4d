package engine

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// learn has a handle run inline by adaptive dispatch.
func learn(t *testing.T, srv *Server, c *client, main, sub uint16) {
	t.Helper()
	waitFor(t, "the handle to go inline", func() bool {
		before := inlined(srv)
		c.send(main, sub, "quick")
		c.expect(main, sub, "quick")
		return inlined(srv) > before
	})
}

// slowest asks for n echoes one after the other.
func slowest(c *client, main, sub uint16, n int) (worst time.Duration) {
	for range n {
		began := time.Now()
		c.send(main, sub, "echo")
		c.expect(main, sub, "echo")
		worst = max(worst, time.Since(began))
	}
	return worst
}

// A handle that has shown itself quick, and then waits for another session of its loop, is
// no deadlock: others of the loop are served meanwhile, and so is who comes then if there
// is another loop.
func TestRendezvousOnOneLoop(t *testing.T) {
	for _, loops := range []int{1, 2} {
		meet, inside := make(chan bool), make(chan bool, 8)
		srv := serve(t, Config{Loops: loops, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
			switch string(p.Body) {
			case "first":
				inside <- true
				<-meet
			case "second":
				meet <- true
			}
			echo(s, p)
		}})
		a, b, other := dial(t, srv), dial(t, srv), dial(t, srv)
		for _, c := range []*client{a, b, other} {
			learn(t, srv, c, 1, 1)
		}
		for range 3 { // also when it has been learned again, or not
			a.send(1, 1, "first")
			<-inside
			if worst := slowest(other, 2, 2, 20); worst > time.Second*slack {
				t.Errorf("%d loops: another's echo took %v", loops, worst)
			}
			for range 4 * (loops - 1) {
				c := dial(t, srv)
				slowest(c, 2, 2, 3)
				c.Close()
			}
			b.send(1, 1, "second")
			b.expect(1, 1, "second")
			a.expect(1, 1, "first")
			slowest(a, 2, 2, 3)
		}
		if st := srv.Stats(); loops == 1 && st.Loops[0].HandOver == 0 {
			t.Errorf("no loop was handed over: %+v", st.Loops)
		}
		if srv.Stats().Demoted == 0 {
			t.Error("the handle is still inline")
		}
	}
}

// A handler that never returns costs its own session, on a loop and on a worker.
func TestHandlersBlockedForEver(t *testing.T) {
	gate, inside := make(chan bool), make(chan bool, 8)
	srv := serve(t, Config{Loops: 2, Workers: 2, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, Handles: map[uint32]Dispatch{1<<16 | 4: Inline, 1<<16 | 5: Ordered}},
		&funcs{read: func(s *Session, p codec.Packet) {
			if p.Sub >= 4 {
				inside <- true
				<-gate
			}
			echo(s, p)
		}})
	var old, stuck []*client
	for range 8 {
		c := dial(t, srv)
		slowest(c, 1, 1, 10)
		old = append(old, c)
	}
	for _, sub := range []uint16{4, 5, 5, 5} {
		c := dial(t, srv)
		c.send(1, sub, "stuck")
		<-inside
		stuck = append(stuck, c)
	}
	for range 8 {
		c := dial(t, srv)
		slowest(c, 1, 1, 3)
		c.Close()
	}
	for _, c := range old {
		if worst := slowest(c, 1, 1, 20); worst > time.Second*slack {
			t.Errorf("an echo took %v", worst)
		}
	}
	if err := srv.Broadcast(2, 2, nil); err != nil {
		t.Error(err)
	}
	for _, c := range append(old, stuck[1:]...) {
		c.expect(2, 2, "")
	}
	stuck[0].Close() // its end comes with its callback's
	close(gate)
	for _, c := range stuck[1:] {
		c.expect(1, 5, "stuck")
		slowest(c, 1, 1, 3)
	}
}

// A callback that ends its loop's goroutine costs its own session: the others of the loop
// are served, new ones by another loop, and Stop ends.
func TestGoexitOnALoop(t *testing.T) {
	for loops := 1; loops <= 2; loops++ {
		goexitOn(t, loops)
	}
}

func goexitOn(t *testing.T, loops int) {
	reasons := make(chan Reason, 1)
	srv := serve(t, Config{Loops: loops, Dispatch: Inline, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{
		read: func(s *Session, p codec.Packet) {
			if p.Sub == 4 {
				runtime.Goexit()
			}
			echo(s, p)
		},
		close: func(_ *Session, why Reason) {
			select {
			case reasons <- why:
			default:
			}
		},
	})
	c, other := dial(t, srv), dial(t, srv)
	slowest(other, 1, 1, 3)
	slowest(c, 1, 1, 3)
	c.send(1, 4, "")
	c.expectError(CodeInternal, 1<<16|4)
	if why := <-reasons; why != ReasonPanic {
		t.Errorf("closed with %v", why)
	}
	slowest(other, 1, 1, 20)
	for range 4 * (loops - 1) { // another loop has to take who comes
		late := dial(t, srv)
		slowest(late, 1, 1, 3)
		late.Close()
	}
	began := time.Now()
	if err := srv.Stop(within(t, 5*time.Second)); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Stop took %v", took)
	}
}

// A callback that holds up a loop is reported once while it lasts, beside one that holds
// up a worker.
func TestStallsOfLoopsAndWorkersAreTold(t *testing.T) {
	const after = 40 * time.Millisecond
	var mu sync.Mutex
	var got []Stall
	gate, inside := make(chan bool), make(chan string, 2)
	srv := serve(t, Config{Loops: 1, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, StallAfter: after, Handles: map[uint32]Dispatch{3<<16 | 1: Inline, 3<<16 | 2: Ordered},
		OnStall: func(s Stall) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, s)
		}}, &funcs{read: func(s *Session, p codec.Packet) {
		if len(p.Body) > 0 {
			inside <- s.ID().String()
			<-gate
		}
		s.Reply(p, nil)
	}})
	a, b := dial(t, srv), dial(t, srv)
	want := map[string]Stall{}
	for _, x := range []struct {
		c     *client
		sub   uint16
		where string
	}{{a, 1, "loop"}, {b, 2, "worker"}} {
		x.c.send(3, x.sub, "")
		x.c.expect(3, x.sub, "")
		x.c.send(3, x.sub, "block")
		want[x.where] = Stall{Where: x.where, Session: <-inside, Main: 3, Sub: x.sub}
	}
	waitFor(t, "both reports", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) >= 2 })
	time.Sleep(8 * after) // no more than these come
	mu.Lock()
	for _, st := range got {
		if st.For < after || st.Stack == "" {
			t.Errorf("after %v, stack %q", st.For, st.Stack)
		}
		st.At, st.For, st.Stack = time.Time{}, 0, ""
		if st != want[st.Where] {
			t.Errorf("got %+v, want %+v", st, want[st.Where])
		}
	}
	if len(got) != 2 {
		t.Errorf("%d reports, want 2: %+v", len(got), got)
	}
	mu.Unlock()
	if st := srv.Stats(); st.Stalls != 1 || st.Pool.Stalls != 1 {
		t.Errorf("%d and %d counted, want 1 and 1", st.Stalls, st.Pool.Stalls)
	}
	close(gate)
	a.expect(3, 1, "")
	b.expect(3, 2, "")
}

// A client that pipelines small frames without end does not hold up another session of
// its loop: few of them are handled in front of a frame of the other.
func TestPipelinedFramesLeaveRoomForOthers(t *testing.T) {
	var handled, others atomic.Int64
	srv := serve(t, Config{Loops: 1, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 1 {
			for began := time.Now(); time.Since(began) < 5*time.Microsecond; {
			}
			handled.Add(1)
		} else {
			others.Store(handled.Load())
		}
		echo(s, p)
	}})
	flood, c := dial(t, srv), dial(t, srv)
	waitFor(t, "the handle to go inline", func() bool {
		before := inlined(srv)
		flood.send(1, 1, "")
		flood.expect(1, 1, "")
		return inlined(srv) > before
	})
	learn(t, srv, c, 1, 2)
	stop := make(chan bool)
	var wg sync.WaitGroup
	wg.Add(2)
	go func() {
		defer wg.Done()
		var b []byte
		for range 8192 {
			b = append(b, frame(1, 1, "")...)
		}
		for {
			select {
			case <-stop:
				flood.Close()
				return
			default:
				flood.Write(b)
			}
		}
	}()
	go func() {
		defer wg.Done()
		b := make([]byte, 64<<10)
		for {
			if _, err := flood.Read(b); err != nil {
				return
			}
		}
	}()
	waitFor(t, "the flood", func() bool { return handled.Load() > 1000 })
	var ahead []int64
	for range 200 {
		was := handled.Load()
		c.send(1, 2, "")
		c.expect(1, 2, "")
		ahead = append(ahead, others.Load()-was)
	}
	before := handled.Load()
	waitFor(t, "the flood to go on", func() bool { return handled.Load() > before })
	close(stop)
	wg.Wait()
	slices.Sort(ahead)
	t.Logf("frames of the flood in front of another's: median %v, p90 %v, most %v", ahead[100], ahead[180], ahead[199])
	if ahead[180] > 3000 { // beyond that, the machine has its say
		t.Errorf("%d frames in front of one of another session", ahead[180])
	}
}
