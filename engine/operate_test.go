package engine

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// shortLinger is for servers whose clients don't close.
var shortLinger = Timeouts{Linger: 50 * time.Millisecond}

// A kicked client gets what it was sent before, an ERROR 8 about nothing, and a FIN that no
// reset overtakes, also when it is in the middle of an upload and its handler runs.
func TestKickSaysWhyAndCloses(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			reasons, hold, in := make(chan Reason, 1), make(chan struct{}), make(chan struct{})
			srv := serve(t, Config{Dispatch: d}, &funcs{
				read: func(s *Session, p codec.Packet) {
					s.Reply(p, p.Body)
					if p.Sub == 2 {
						close(in)
						<-hold
					}
				},
				close: func(_ *Session, why Reason) { reasons <- why },
			})
			c := dial(t, srv)
			c.send(1, 1, "before")
			c.expect(1, 1, "before")
			var s *Session
			srv.Sessions(func(x *Session) bool { s = x; return false })
			c.send(1, 2, "running")
			c.send(1, 1, strings.Repeat("x", 60<<10)) // behind it: not answered any more
			<-in
			if err := s.Kick("for a test"); err != nil {
				t.Fatal(err)
			}
			if err := s.Kick("again"); !errors.Is(err, ErrClosed) {
				t.Errorf("a second Kick: %v, want ErrClosed", err)
			}
			close(hold)
			c.expect(1, 2, "running")
			p, err := c.read()
			if err != nil || p.Main != SystemMain || p.Sub != SubError || !bytes.Equal(p.Body, append([]byte{0, 8, 0, 0, 0, 0}, "for a test"...)) {
				t.Fatalf("got %v %v, want ERROR 8 about nothing", p, err)
			}
			c.expectEOF()
			if why := <-reasons; why != ReasonKicked || why.String() != "kicked" {
				t.Errorf("closed for %v", why)
			}
			if n := srv.Stats().Closes[ReasonKicked]; n != 1 {
				t.Errorf("%d kicked in Stats", n)
			}
		})
	}
}

// A drain that is taken back lets connections in again, tells nobody twice, and leaves the
// sessions that it had not told or that were busy as they were.
func TestUndrainTakesADrainBack(t *testing.T) {
	hold := make(chan struct{})
	srv := serve(t, Config{DrainTo: "elsewhere:1", Timeouts: shortLinger, Handles: map[uint32]Dispatch{1<<16 | 2: Ordered}}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 2 {
			<-hold
		}
		s.Reply(p, p.Body)
	}})
	if err := srv.Undrain(); err != nil {
		t.Fatalf("Undrain without a drain: %v", err)
	}
	busy := dial(t, srv)
	for range 2 { // the second drain tells again whom the first has told and not ended
		idle := dial(t, srv)
		busy.send(1, 1, "in")
		busy.expect(1, 1, "in")
		idle.send(1, 1, "in")
		idle.expect(1, 1, "in")
		busy.send(1, 2, "late")
		waitFor(t, "the handler", func() bool { return len(srv.stuck()) == 1 })
		if err := srv.Drain(time.Minute, 0); err != nil {
			t.Fatal(err)
		}
		if err := srv.Drain(time.Minute, 0); !errors.Is(err, ErrDraining) {
			t.Errorf("a second Drain: %v", err)
		}
		for _, c := range []*client{busy, idle} {
			p, err := c.read()
			if err != nil || p.Sub != SubGoAway || string(p.Body[4:]) != "elsewhere:1" {
				t.Fatalf("got %v %v, want GOAWAY with the address", p, err)
			}
		}
		idle.expectEOF()
		refused := dial(t, srv)
		refused.expectError(CodeDraining, 0)
		refused.expectEOF()
		if err := srv.Undrain(); err != nil || srv.Draining() {
			t.Fatalf("Undrain: %v, draining %v", err, srv.Draining())
		}
		hold <- struct{}{}
		busy.expect(1, 2, "late")
		time.Sleep(2 * drainQuiet) // nothing may happen now
		busy.send(1, 1, "still here")
		busy.expect(1, 1, "still here")
		again := dial(t, srv)
		again.send(1, 1, "new")
		again.expect(1, 1, "new")
		again.Close()
		waitFor(t, "the sessions", func() bool { return srv.Stats().Conns == 1 })
	}
	if got := srv.Stats().GoAways; got != 4 {
		t.Errorf("%d told in two drains of two sessions each, want 4", got)
	}
}

// At a rate of 50 a second the last of 12 idle sessions is told a fifth of a second later,
// and Undrain ends the telling.
func TestDrainTellsAtItsRate(t *testing.T) {
	srv := serve(t, Config{Timeouts: shortLinger}, &funcs{read: echo})
	var all []*client
	for range 12 {
		c := dial(t, srv)
		c.send(1, 1, "in")
		c.expect(1, 1, "in")
		all = append(all, c)
	}
	began := time.Now()
	if err := srv.Drain(0, 50); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if p, err := c.read(); err != nil || p.Sub != SubGoAway {
			t.Fatalf("got %v %v, want GOAWAY", p, err)
		}
		c.expectEOF()
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("12 sessions at 50 a second within %v", took)
	}
	if err := srv.Undrain(); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		c := dial(t, srv)
		c.send(1, 1, "in")
		c.expect(1, 1, "in")
	}
	if err := srv.Drain(0, 10); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first to be told", func() bool { return srv.Stats().GoAways > 12 })
	if err := srv.Undrain(); err != nil {
		t.Fatal(err)
	}
	told := srv.Stats().GoAways
	if told > 45 {
		t.Errorf("%d of 40 told at once at 10 a second", told-12)
	}
	time.Sleep(150 * time.Millisecond)
	if now := srv.Stats().GoAways; now != told {
		t.Errorf("%d told after Undrain", now-told)
	}
}

// What is left at a drain's end is cut off, and the server lives; Stop takes a drain over.
func TestDrainCutsOffWhatIsLeft(t *testing.T) {
	reasons := make(chan Reason, 2)
	srv := serve(t, Config{Timeouts: shortLinger}, &funcs{
		read:  func(s *Session, p codec.Packet) { s.Hold() },
		close: func(_ *Session, why Reason) { reasons <- why },
	})
	owed := func() *client {
		c := dial(t, srv)
		c.send(1, 1, "never answered")
		waitFor(t, "the request", func() bool {
			held := 0
			srv.Sessions(func(s *Session) bool { held += int(s.held.Load()); return true })
			return held == 1
		})
		return c
	}
	owed()
	if err := srv.Drain(300*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	if why := <-reasons; why != ReasonStopped {
		t.Errorf("cut off for %v", why)
	}
	if !srv.Running() || !srv.Draining() {
		t.Errorf("running %v, draining %v after the drain's end, want both", srv.Running(), srv.Draining())
	}
	if err := srv.Undrain(); err != nil {
		t.Fatal(err)
	}
	owed()
	if err := srv.Drain(0, 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "GOAWAY", func() bool { return srv.Stats().GoAways == 2 })
	var loss *LossError
	if err := srv.Stop(within(t, 300*time.Millisecond)); !errors.As(err, &loss) || loss.Sessions != 1 {
		t.Errorf("Stop after Drain: %v, want the loss of one session", err)
	}
	if srv.Stats().GoAways != 2 {
		t.Error("Stop told a session again that Drain had told")
	}
	if err := srv.Drain(0, 0); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrDraining) {
		t.Errorf("Drain after Stop: %v", err)
	}
	if err := srv.Undrain(); !errors.Is(err, ErrClosed) {
		t.Errorf("Undrain after Stop: %v", err)
	}
}

// A session that Drain has told ends, when Stop takes over, by when it was told.
func TestStopTakesADrainOver(t *testing.T) {
	release := make(chan func(), 1)
	srv := serve(t, Config{Timeouts: shortLinger}, &funcs{read: func(s *Session, p codec.Packet) { release <- s.Hold() }})
	c := dial(t, srv)
	c.send(1, 1, "")
	done := <-release
	if err := srv.Drain(0, 0); err != nil {
		t.Fatal(err)
	}
	if p, err := c.read(); err != nil || p.Sub != SubGoAway {
		t.Fatalf("got %v %v, want GOAWAY", p, err)
	}
	from, stopping := srv.drainFrom.Load(), make(chan struct{})
	go func() {
		<-stopping
		done()
	}()
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Stop(within(t, 30*time.Second)) }()
	waitFor(t, "Stop to begin", func() bool { return !srv.Running() })
	close(stopping)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if srv.drainFrom.Load() != from {
		t.Error("what the session was told has become later")
	}
	c.expectEOF()
}

// Settings change for sessions that are there, refuse what can't be, and show in Config.
func TestAdjustHoldsForSessionsThatAreThere(t *testing.T) {
	reasons := make(chan Reason, 8)
	srv := serve(t, Config{Limits: Limits{MaxConns: 8}}, &funcs{read: echo, close: func(_ *Session, why Reason) { reasons <- why }})
	c := dial(t, srv)
	c.send(1, 1, "in")
	c.expect(1, 1, "in")
	for _, bad := range []func(*Adjustable){
		func(a *Adjustable) { a.MaxConns = 9 },
		func(a *Adjustable) { a.MaxConns = 0 },
		func(a *Adjustable) { a.MaxConnsPerIP = 1 },
		func(a *Adjustable) { a.MemoryBudget = 1 },
		func(a *Adjustable) { a.IdleTimeout = time.Nanosecond },
		func(a *Adjustable) { a.IdleTimeout, a.Heartbeat = 50*time.Millisecond, -5 },
	} {
		var field *ConfigError
		if err := srv.Adjust(bad); !errors.As(err, &field) {
			t.Errorf("got %v, want a ConfigError", err)
		}
	}
	if a := srv.Adjustable(); a.IdleTimeout != 0 || a.MaxConns != 8 {
		t.Errorf("changed by refused calls: %+v", a)
	}
	if err := srv.Adjust(func(a *Adjustable) { a.MaxConns = 1 }); err != nil {
		t.Fatal(err)
	}
	over := dial(t, srv)
	over.expectError(CodeLimit, 0)
	over.expectEOF()
	if err := srv.Adjust(func(a *Adjustable) { a.MaxConns, a.IdleTimeout, a.FirstFrameTimeout = 8, 50*time.Millisecond, Off }); err != nil {
		t.Fatal(err)
	}
	if cfg := srv.Config(); cfg.IdleTimeout != 50*time.Millisecond || cfg.MaxConns != 8 || cfg.FirstFrameTimeout != Off {
		t.Errorf("Config says %v, %d, %v", cfg.IdleTimeout, cfg.MaxConns, cfg.FirstFrameTimeout)
	}
	c.expectError(CodeTimeout, 0)
	c.expectEOF()
	if why := <-reasons; why != ReasonIdle {
		t.Errorf("closed for %v, want %v", why, ReasonIdle)
	}
	if st := srv.Stats(); st.Refused[RefusedConns] != 1 {
		t.Errorf("%d refused for MaxConns, want 1", st.Refused[RefusedConns])
	}
}

// A lower budget stops those who hold much, and a higher one lets them go on.
func TestAdjustMovesTheMemoryBudget(t *testing.T) {
	srv := serve(t, Config{}, &funcs{})
	srv.budget.Add(1 << 20)
	if srv.budget.Level() != 0 {
		t.Fatalf("level %v at 1 MiB of 256", srv.budget.Level())
	}
	for _, step := range []struct{ limit, level int }{{1<<20 - 1, 1}, {1 << 19, 2}, {1 << 22, 0}} {
		if err := srv.Adjust(func(a *Adjustable) { a.MemoryBudget = step.limit }); err != nil {
			t.Fatal(err)
		}
		if got := int(srv.budget.Level()); got != step.level {
			t.Errorf("level %d at 1 MiB of %d, want %d", got, step.limit, step.level)
		}
	}
	srv.budget.Add(-1 << 20)
}

// Others see why a session is not read from, and what it is doing.
func TestStateTellsWhatASessionDoes(t *testing.T) {
	hold := make(chan struct{})
	srv := serve(t, Config{Dispatch: Ordered, Limits: Limits{MaxPending: 4 << 10}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.Server().Group("b").Join(s)
		s.Server().Group("a").Join(s)
		<-hold
		s.Reply(p, nil)
	}})
	c := dial(t, srv)
	const n = 40
	go func() {
		for range n {
			c.send(7, 9, strings.Repeat("x", 1000))
		}
	}()
	var s *Session
	waitFor(t, "a pause", func() bool {
		srv.Sessions(func(x *Session) bool { s = x; return false })
		return s != nil && s.Stats().Paused == PausePending
	})
	if got := PausePending.Reasons(); len(got) != 1 || got[0] != "max_pending" {
		t.Errorf("reasons %v", got)
	}
	st, err := s.State(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if st.Life != "open" || st.Strand != "running" || st.Main != 7 || st.Sub != 9 || st.Held < 4<<10 || st.Reason != 0 {
		t.Errorf("state %+v", st)
	}
	if g := s.Groups(); len(g) != 2 || g[0] != "a" || g[1] != "b" {
		t.Errorf("groups %v", g)
	}
	if l := s.Loop(); l < 0 || l >= len(srv.Stats().Loops) {
		t.Errorf("loop %d of %d", l, len(srv.Stats().Loops))
	}
	close(hold)
	for range n {
		c.expect(7, 9, "")
	}
	waitFor(t, "reading again", func() bool { return s.Stats().Paused == 0 })
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if st, err := s.State(over); err == nil && st.Life != "open" {
		t.Errorf("state %+v", st)
	}
}

// What waits for a worker is measured, and only that.
func TestPoolWaitsMeasuresTheQueue(t *testing.T) {
	srv := serve(t, Config{Dispatch: Ordered, Workers: 1, SpareWorkers: Off}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 2 {
			time.Sleep(60 * time.Millisecond)
		}
		s.Reply(p, nil)
	}})
	a, b := dial(t, srv), dial(t, srv)
	for range 5 {
		a.send(1, 1, "")
		a.expect(1, 1, "")
	}
	before := srv.Pool().Waits()
	if before.Count() == 0 {
		t.Fatal("nothing measured")
	}
	a.send(1, 2, "")
	waitFor(t, "the handler", func() bool { return len(srv.stuck()) == 1 })
	b.send(1, 1, "")
	b.expect(1, 1, "")
	waits := srv.Pool().Waits()
	if got := waits.Quantile(1); got < 10*time.Millisecond {
		t.Errorf("the longest wait is %v, behind a handler of 60 ms", got)
	}
}
