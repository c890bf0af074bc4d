package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/codec"
	"millrace/engine/internal/strand"
)

// submit tries again while the strand is full.
func submit(t testing.TB, s *Strand, fn func()) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Microsecond) {
		err := s.Submit(fn)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrBusy) || time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}

// awaited fails the test when done is not closed within a minute.
func awaited(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("waited a minute for %s", what)
	}
}

// Functions of a strand never run at the same time, and those of one goroutine run in its
// order; what they write needs no lock. Strands take turns on few workers.
func TestStrandRunsOneAtATimeAndInOrder(t *testing.T) {
	const strandsN, senders, each = 5, 4, 500
	p := runPool(t, PoolConfig{Workers: 3, MaxTasks: 64})
	var all [strandsN]struct {
		s      *Strand
		inside atomic.Int32
		heard  [senders][]int // without a lock
	}
	for i := range all {
		all[i].s = p.Strand()
	}
	var left sync.WaitGroup
	left.Add(strandsN * senders * each)
	for from := range senders {
		go func() {
			for n := range each {
				for i := range all {
					a := &all[i]
					submit(t, a.s, func() {
						if a.inside.Add(1) != 1 {
							t.Error("two functions of a strand at once")
						}
						a.heard[from] = append(a.heard[from], n)
						a.inside.Add(-1)
						left.Done()
					})
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { left.Wait(); close(done) }()
	awaited(t, "every function", done)
	for i := range all {
		for from, got := range all[i].heard {
			if len(got) != each || !slices.IsSorted(got) {
				t.Errorf("strand %d ran %d of sender %d, sorted: %v", i, len(got), from, slices.IsSorted(got))
			}
		}
	}
	if st := p.Stats(); st.StrandMemory != 0 {
		t.Errorf("%d bytes still counted", st.StrandMemory)
	}
}

// Messages and functions share one order; a message that panics closes the strand.
func TestStrandHandlesMessages(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2})
	if err := p.Strand().Post(1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without OnMessage: %v", err)
	}
	var got []any
	closed := make(chan Reason, 1)
	s := p.StrandWith(StrandConfig{
		OnMessage: func(msg any) { got = append(got, msg.(int)) },
		OnClose:   func(why Reason) { closed <- why },
	})
	for i := range 100 {
		if err := s.Post(2 * i); err != nil {
			t.Fatal(err)
		}
		submit(t, s, func() { got = append(got, 2*i+1) })
	}
	if err := s.Post("no number"); err != nil {
		t.Fatal(err)
	}
	if why := <-closed; why != ReasonPanic || len(got) != 200 {
		t.Errorf("closed for %v behind %d of 200", why, len(got))
	}
	for i, v := range got {
		if v != i {
			t.Fatalf("%v came as number %d", v, i)
		}
	}
	if err := s.Post(1); !errors.Is(err, ErrClosed) {
		t.Errorf("then: %v", err)
	}
}

// A panic, and runtime.Goexit, end their strand: what it had accepted runs, then OnClose,
// and nothing is taken any more. The pool goes on, and says where it was.
func TestStrandContainsPanics(t *testing.T) {
	for _, tt := range []struct {
		name string
		bad  func()
	}{
		{"panic", func() { panic("of the test") }},
		{"nil dereference", func() { var m map[int]int; m[1] = 1 }},
		{"Goexit", runtime.Goexit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logText
			p := runPool(t, PoolConfig{Workers: 2, Logger: textLog(&log)})
			closed := make(chan Reason, 2)
			s := p.StrandWith(StrandConfig{Name: "kitchen", OnClose: func(why Reason) { closed <- why }})
			var ran atomic.Int32
			gate := make(chan struct{})
			submit(t, s, func() { <-gate })
			submit(t, s, tt.bad)
			for range 200 { // more than a turn
				submit(t, s, func() { ran.Add(1) })
			}
			close(gate)
			select {
			case why := <-closed:
				if n := ran.Load(); why != ReasonPanic || n != 200 {
					t.Errorf("closed for %v, %d of 200 ran before", why, n)
				}
			case <-time.After(time.Minute):
				t.Fatal("it was not closed")
			}
			if err := s.Submit(func() {}); !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
				t.Errorf("then: %v", err)
			}
			other := make(chan struct{})
			submit(t, p.Strand(), func() { close(other) })
			awaited(t, "another strand", other)
			if st := p.Stats(); st.Panics != 1 || st.StrandStale != 1 {
				t.Errorf("%+v", st)
			}
			if text := log.String(); !strings.Contains(text, "session=kitchen") || !strings.Contains(text, "Strand.Submit") {
				t.Errorf("the log says %q", text)
			}
		})
	}
}

// A panic in OnClose ends the strand all the same, and the next one begins.
func TestOnCloseMayPanic(t *testing.T) {
	for name, bad := range map[string]func(){"panic": func() { panic("of the test") }, "Goexit": runtime.Goexit} {
		p := runPool(t, PoolConfig{Workers: 1})
		var called atomic.Int32
		s := p.StrandWith(StrandConfig{OnClose: func(Reason) { called.Add(1); bad() }})
		next := make(chan struct{})
		submit(t, s.Next(StrandConfig{}), func() { close(next) })
		s.Close()
		awaited(t, name+": the next one", next)
		if n := called.Load(); n != 1 || p.Stats().Panics != 1 {
			t.Errorf("%s: OnClose was called %d times, %d panics counted", name, n, p.Stats().Panics)
		}
	}
}

// Functions that block hold back their own strands only, however many there are.
func TestABlockedStrandStallsNobody(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2, Spare: 40})
	gate := make(chan struct{})
	for range 30 {
		submit(t, p.Strand(), func() { <-gate })
	}
	done := make(chan struct{})
	submit(t, p.Strand(), func() { close(done) })
	awaited(t, "a strand beside blocked ones", done)
	close(gate)
}

// What waits is bounded in each strand and in all together, is counted, and is given back.
func TestStrandLimits(t *testing.T) {
	const fits = 40
	p := runPool(t, PoolConfig{Workers: 1, Spare: Off, MaxTasks: 10, StrandMemory: fits * strand.TaskCost})
	gate := make(chan struct{})
	var ran, taken atomic.Int32
	submit(t, p.Strand(), func() { <-gate })
	give := func(s *Strand) error {
		err := s.Submit(func() { ran.Add(1) })
		if err == nil {
			taken.Add(1)
		}
		return err
	}
	s := p.Strand()
	for range 10 {
		if err := give(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := give(s); !errors.Is(err, ErrTasksFull) || !errors.Is(err, ErrBusy) || s.Len() != 10 {
		t.Errorf("the eleventh: %v, %d wait", err, s.Len())
	}
	one := p.StrandWith(StrandConfig{MaxTasks: 1})
	if first, second := give(one), give(one); first != nil || !errors.Is(second, ErrTasksFull) {
		t.Errorf("a limit of its own: %v, %v", first, second)
	}
	var err error
	for range fits {
		if err = give(p.Strand()); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrMemory) || !errors.Is(err, ErrBusy) {
		t.Errorf("many strands: %v", err)
	}
	st := p.Stats()
	if st.StrandRefused != 3 || st.StrandMemory != fits*strand.TaskCost {
		t.Errorf("%+v", st)
	}
	close(gate)
	waitFor(t, "what was taken", func() bool { return ran.Load() == taken.Load() })
	waitFor(t, "the memory", func() bool { return p.Stats().StrandMemory == 0 })
	if err := give(s); err != nil {
		t.Error(err)
	}
	for _, bad := range []PoolConfig{{MaxTasks: -1}, {StrandMemory: -1}} {
		if _, err := NewPool(bad); err == nil || !strings.Contains(err.Error(), "at least 1") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// A strand follows its pool's life, and has one of its own.
func TestStrandOutsideOfItsLife(t *testing.T) {
	p, err := NewPool(PoolConfig{Workers: 1, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s, busy := p.Strand(), p.Strand()
	if err := s.Submit(func() { t.Error("ran") }); !errors.Is(err, ErrNotRunning) || errors.Is(err, ErrClosed) {
		t.Errorf("before Start: %v", err)
	}
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var whys []Reason
	c := p.StrandWith(StrandConfig{OnClose: func(why Reason) { whys = append(whys, why) }})
	if why, closed := c.Closed(); why != 0 || closed || c.Pool() != p {
		t.Errorf("a new one: %v, %v", why, closed)
	}
	if err := c.CloseFor(ReasonStopped); err != nil {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, ErrClosed) || c.CloseIfIdle() {
		t.Errorf("closed twice: %v", err)
	}
	inside, gate := make(chan struct{}), make(chan struct{})
	submit(t, busy, func() { close(inside); <-gate })
	<-inside
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(within(t, time.Minute)) }()
	waitFor(t, "Stop", func() bool { return !p.Running() })
	for name, s := range map[string]*Strand{"idle": s, "busy": busy} {
		if err := s.Submit(func() { t.Error("ran") }); !errors.Is(err, ErrClosed) {
			t.Errorf("%s, after Stop: %v", name, err)
		}
	}
	close(gate)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if len(whys) != 1 || whys[0] != ReasonStopped {
		t.Errorf("OnClose: %v", whys)
	}
}

// What was accepted has run when Stop returns, to the last function, whoever submits
// meanwhile; and nothing runs after it.
func TestPoolStopRunsWhatStrandsHaveAccepted(t *testing.T) {
	for round := range 70 {
		p, err := NewPool(PoolConfig{Workers: 2, Logger: quiet})
		if err == nil {
			err = p.Start(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		var accepted, ran atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					err := p.Strand().Submit(func() { ran.Add(1) }) // an idle one each time
					if errors.Is(err, ErrClosed) {
						return
					}
					if err == nil {
						accepted.Add(1)
					}
				}
			})
		}
		for range round % 7 {
			runtime.Gosched()
		}
		if err := p.Stop(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		n := ran.Load()
		wg.Wait()
		if ran.Load() != n || n != accepted.Load() {
			t.Fatalf("round %d: %d accepted, %d had run when Stop returned, %d now", round, accepted.Load(), n, ran.Load())
		}
	}
}

// A server's own pool has strands too: its Stop waits for them, as for sessions, and counts
// what they lose.
func TestServerStopWaitsForItsStrands(t *testing.T) {
	begin := func(t *testing.T) (srv *Server, gate chan struct{}, ran *atomic.Int32) {
		srv = serve(t, Config{Workers: 1, SpareWorkers: Off}, &funcs{})
		gate, ran = make(chan struct{}), new(atomic.Int32)
		inside := make(chan struct{})
		s := srv.Pool().StrandWith(StrandConfig{Name: "ledger"})
		submit(t, s, func() { close(inside); <-gate })
		<-inside
		for range 100 {
			submit(t, s, func() { ran.Add(1) })
		}
		return srv, gate, ran
	}
	t.Run("in time", func(t *testing.T) {
		srv, gate, ran := begin(t)
		stopped := make(chan error, 1)
		go func() { stopped <- srv.Stop(within(t, time.Minute)) }()
		waitFor(t, "the pool's Stop", func() bool { return !srv.Pool().Running() })
		time.AfterFunc(stopGrace+200*time.Millisecond, func() { close(gate) })
		if err := <-stopped; err != nil || ran.Load() != 100 {
			t.Errorf("%v; %d of 100 ran", err, ran.Load())
		}
	})
	t.Run("too late", func(t *testing.T) {
		srv, gate, _ := begin(t)
		defer close(gate)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		var loss *LossError
		if err := srv.Stop(ctx); !errors.As(err, &loss) || loss.Functions != 100 || !strings.Contains(err.Error(), "100 functions not run") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// Stop from a strand's function would wait for itself.
func TestStopFromAStrandIsRefused(t *testing.T) {
	srv := serve(t, Config{Workers: 1}, &funcs{})
	got := make(chan error, 2)
	submit(t, srv.Pool().Strand(), func() {
		got <- srv.Pool().Stop(context.Background())
		got <- srv.Stop(context.Background())
	})
	for range 2 {
		if err := <-got; !errors.Is(err, ErrInCallback) {
			t.Errorf("got %v", err)
		}
	}
}

// What holds a strand up is reported by its name.
func TestStallNamesTheStrand(t *testing.T) {
	stalls := make(chan Stall, 16)
	p := runPool(t, PoolConfig{Workers: 1, StallAfter: 20 * time.Millisecond, OnStall: func(s Stall) { stalls <- s }})
	gate := make(chan struct{})
	s := p.StrandWith(StrandConfig{Name: "room tea"})
	submit(t, s, func() { <-gate })
	select {
	case st := <-stalls:
		if st.Session != "room tea" || st.Where != "worker" {
			t.Errorf("got %+v", st)
		}
	case <-time.After(time.Minute):
		t.Error("no report")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Stop(ended); err == nil || !strings.Contains(err.Error(), "strand room tea") {
		t.Errorf("Stop says %v", err)
	}
	close(gate)
}

// CloseIfIdle is exact: where it succeeds nothing that was accepted is left, and nothing is
// accepted any more; where it doesn't, the strand goes on.
func TestCloseIfIdleLosesNothing(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2})
	closed, kept := 0, 0
	for round := range 2000 {
		s := p.Strand()
		var won, behind, deciding atomic.Bool
		decided, sent := make(chan struct{}), make(chan struct{})
		submit(t, s, func() {
			deciding.Store(true)
			for range round % 40 * 500 {
				won.Load() // a little later each time
			}
			won.Store(s.CloseIfIdle())
			close(decided)
		})
		ran := make(chan struct{})
		var err error
		go func() {
			for !deciding.Load() {
				runtime.Gosched()
			}
			err = s.Submit(func() { behind.Store(won.Load()); close(ran) })
			close(sent)
		}()
		<-decided
		<-sent
		switch {
		case err == nil:
			awaited(t, "what was accepted", ran)
			if behind.Load() {
				t.Fatal("a function was accepted, and the strand closed as idle in front of it")
			}
			if !won.Load() {
				kept++
			}
		case !errors.Is(err, ErrClosed) || !won.Load():
			t.Fatalf("closed %v: %v", won.Load(), err)
		default:
			closed++
		}
	}
	t.Logf("closed %d times, kept %d times", closed, kept)
}

// A strand made by Next takes functions at once and runs them when the one before it has
// ended, OnClose included, in whatever state that is then; so do several of one.
func TestNextBeginsWhenTheLastHasEnded(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 4})
	for round := range 300 {
		var inside atomic.Int32
		var order []int // without a lock
		const chain = 4
		done := make(chan struct{})
		step := func(n int) func() {
			return func() {
				if inside.Add(1) != 1 {
					t.Error("two strands of a chain at once")
				}
				order = append(order, n)
				runtime.Gosched()
				inside.Add(-1)
			}
		}
		var all [chain]*Strand
		var wg sync.WaitGroup
		for i := range all {
			cfg := StrandConfig{OnClose: func(Reason) {
				step(i)()
				if i == chain-1 {
					close(done)
				}
			}}
			if i == 0 {
				all[i] = p.StrandWith(cfg)
			} else {
				all[i] = all[i-1].Next(cfg)
			}
			submit(t, all[i], step(i))
			submit(t, all[i], step(i))
			wg.Go(func() { all[i].Close() })
		}
		wg.Wait()
		awaited(t, "the chain", done)
		if len(order) != 3*chain || !slices.IsSorted(order) {
			t.Fatalf("round %d: ran in the order %v", round, order)
		}
	}
	first := p.Strand()
	var ended atomic.Bool
	var wg sync.WaitGroup
	for i := range 8 {
		if i == 4 {
			submit(t, first, func() { time.Sleep(time.Millisecond); ended.Store(true) })
			first.Close()
		}
		wg.Add(1)
		submit(t, first.Next(StrandConfig{}), func() {
			if !ended.Load() {
				t.Error("it has begun before the one in front of it has ended")
			}
			wg.Done()
		})
	}
	wg.Wait()
}

// An idle strand is no goroutine, stands in no list, and is little more than its fields.
func TestIdleStrandsCostLittle(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2, Spare: Off})
	const n = 50_000
	all := make([]*Strand, n)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	goroutines, before := runtime.NumGoroutine(), heap()
	var left sync.WaitGroup
	left.Add(n)
	for i := range all {
		all[i] = p.Strand()
		submit(t, all[i], left.Done)
	}
	left.Wait()
	waitFor(t, "idle workers", func() bool { return p.Stats().Idle >= 2 })
	each := float64(heap()-before) / n
	t.Logf("%.0f bytes a strand", each)
	if each > 160 {
		t.Errorf("an idle strand takes %.0f bytes, want at most 160", each)
	}
	if now := runtime.NumGoroutine(); now > goroutines+2 {
		t.Errorf("%d goroutines, there were %d", now, goroutines)
	}
	if st := p.Stats(); st.Sessions != 0 {
		t.Errorf("%d in the run queue", st.Sessions)
	}
	collected := make(chan struct{})
	runtime.AddCleanup(all[0], func(int) { close(collected) }, 0)
	clear(all)
	for end := time.Now().Add(time.Minute); ; {
		runtime.GC()
		select {
		case <-collected:
			return
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("a strand that nobody refers to is not collected")
		}
	}
}

// No goroutine is left of a pool with strands in every state: the bubble would not end.
func TestStrandsLeaveNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := NewPool(PoolConfig{Workers: 2, Logger: quiet})
		if err == nil {
			err = p.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		s := p.Strand()
		s.Submit(func() { time.Sleep(time.Second) })
		s.Submit(func() { panic("of the test") })
		p.Strand().Submit(func() {})
		c := p.Strand()
		c.Next(StrandConfig{}).Submit(func() {})
		c.Close()
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Who joined with a function is told once when its session ends, by close or FIN, and not
// when it left before.
func TestJoinWithTellsOfTheEnd(t *testing.T) {
	told := make(chan string, 16)
	srv := serve(t, Config{Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		g := s.Server().Group("g")
		name := string(p.Body)
		switch p.Sub {
		case 1:
			for range 2 { // the second changes nothing
				if _, err := g.JoinWith(s, func(*Session) { told <- name }); err != nil {
					t.Error(err)
				}
			}
		case 2:
			g.Leave(s)
		case 3:
			g.JoinWith(s, func(*Session) { told <- name; panic("of the test") })
		case 4:
			s.Close()
			return
		}
		s.Reply(p, nil)
	}})
	for _, ends := range []string{"close", "fin", "leave", "panic", "server"} {
		c := dial(t, srv)
		sub := uint16(1)
		if ends == "panic" {
			sub = 3
		}
		c.send(1, sub, ends)
		c.expect(1, sub, "")
		switch ends {
		case "leave":
			c.send(1, 2, "")
			c.expect(1, 2, "")
			c.Close()
		case "fin":
			if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		case "server":
			c.send(1, 4, "")
		default:
			c.Close()
		}
	}
	var got []string
	for range 4 {
		select {
		case name := <-told:
			got = append(got, name)
		case <-time.After(time.Minute):
			t.Fatalf("told of %q only", got)
		}
	}
	slices.Sort(got)
	if want := []string{"close", "fin", "panic", "server"}; !slices.Equal(got, want) {
		t.Errorf("told of %q, want %q", got, want)
	}
	waitFor(t, "the sessions to end", func() bool { return srv.table.count() == 0 })
	if n := len(told); n != 0 || srv.Stats().Panics != 1 {
		t.Errorf("told %d times more; %d panics", n, srv.Stats().Panics)
	}
}

// BenchmarkSubmit is a function's way through a session's strand and through one of the
// pool's, 512 at a time.
func BenchmarkSubmit(b *testing.B) {
	run := func(b *testing.B, submit func(func()) error) {
		const burst = 512
		n, done := 0, make(chan struct{})
		fn := func() {
			if n++; n == burst {
				n = 0
				done <- struct{}{}
			}
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if err := submit(fn); err != nil {
				b.Fatal(err)
			}
			if i++; i%burst == 0 {
				<-done
			}
		}
	}
	b.Run("session", func(b *testing.B) {
		got := make(chan *Session, 1)
		srv := serve(b, Config{Workers: 2}, &funcs{accept: func(s *Session) { got <- s }})
		dial(b, srv)
		run(b, (<-got).Submit)
	})
	b.Run("strand", func(b *testing.B) {
		run(b, runPool(b, PoolConfig{Workers: 2}).Strand().Submit)
	})
	b.Run("idle strands", func(b *testing.B) { // each finds its strand idle
		p := runPool(b, PoolConfig{Workers: 2})
		all := make([]*Strand, 512)
		for i := range all {
			all[i] = p.Strand()
		}
		var n atomic.Int32
		done := make(chan struct{})
		i := 0
		run := func() {
			if n.Add(1) == 512 {
				n.Store(0)
				done <- struct{}{}
			}
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := all[i].Submit(run); err != nil {
				b.Fatal(err)
			}
			if i++; i == len(all) {
				i = 0
				<-done
			}
		}
	})
}

func ExamplePool_Strand() {
	pool, err := NewPool(PoolConfig{})
	if err == nil {
		err = pool.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Stop(context.Background())
	balance := 0 // only functions of the strand touch it
	account := pool.Strand()
	var payers sync.WaitGroup
	for amount := range 10 {
		payers.Go(func() { account.Submit(func() { balance += amount }) })
	}
	payers.Wait()
	told := make(chan int)
	account.Submit(func() { told <- balance })
	fmt.Println(<-told)
	// Output: 45
}
