package engine

import (
	"context"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// nearOf waits for a near miss of the limit, by a client if one is given.
func nearOf(t *testing.T, srv *Server, what Limit, by ...*client) NearMiss {
	t.Helper()
	var found NearMiss
	waitFor(t, "a near miss of "+what.String(), func() bool {
		for _, n := range srv.NearMisses() {
			if n.Limit == what && (len(by) == 0 || by[0].LocalAddr().String() == n.Remote) {
				found = n
				return true
			}
		}
		return false
	})
	if found.Used < found.Most-found.Most/10 || found.Most <= 0 || time.Since(found.At) > time.Minute {
		t.Errorf("got %+v", found)
	}
	return found
}

// Each limit of a session that comes within a tenth is told, with whose it is.
func TestNearMissesNameTheSession(t *testing.T) {
	const small = 64 << 10
	gate := make(chan struct{})
	inside := make(chan *Session, 10)
	srv := serve(t, Config{
		Dispatch: Ordered, Recorder: RecorderErrors, Socket: Socket{SocketSendBuffer: 16 << 10},
		Limits: Limits{MaxConns: 1000, MaxOutbound: small, MaxPending: small, MaxTasks: 10, MaxGroups: 10},
	}, &funcs{read: func(s *Session, p codec.Packet) {
		switch p.Sub {
		case 2:
			inside <- s
			<-gate
		case 3:
			for i := range 9 {
				s.Server().Group(strings.Repeat("g", i+1)).Join(s)
			}
		case 4:
			inside <- s
		}
		echo(s, p)
	}})
	of := func(what Limit, c *client, s *Session) {
		t.Helper()
		n := nearOf(t, srv, what, c)
		if s != nil && n.Session != s.ID() || srv.Session(n.Session) == nil {
			t.Errorf("%v: got %+v", what, n)
		}
		if srv.Stats().Near[what] == 0 {
			t.Errorf("%v is not counted", what)
		}
		if f, _ := srv.Flight(n.Session); f.Lost == 0 {
			inOrder(t, f, "near "+what.String()+" at ")
		}
	}

	groups := dial(t, srv)
	groups.send(1, 3, "")
	groups.expect(1, 3, "")
	of(LimitGroups, groups, nil)

	pending := dial(t, srv)
	pending.send(1, 2, "")
	s := <-inside
	for range 9 {
		if err := s.Submit(func() {}); err != nil {
			t.Fatal(err)
		}
	}
	go pending.Write(slices.Repeat(frame(1, 1, strings.Repeat("x", 1000)), 200))
	of(LimitPending, pending, s)
	close(gate)
	of(LimitTasks, pending, s)

	outbound := dial(t, srv)
	flood := slices.Repeat(frame(1, 1, strings.Repeat("x", 1000)), 100)
	go func() {
		for {
			if _, err := outbound.Write(flood); err != nil {
				return
			}
		}
	}()
	of(LimitOutbound, outbound, nil)
	outbound.Close()

	large := dial(t, srv)
	large.send(1, 4, "")
	large.expect(1, 4, "")
	s = <-inside
	b, before := frame(1, 1, strings.Repeat("x", 60_000)), s.Stats().BytesIn
	large.Write(b[:100])
	waitFor(t, "the first part", func() bool { return s.Stats().BytesIn > before })
	large.Write(b[100:])
	large.expect(1, 1, string(b[8:]))
	of(LimitFrame, large, s)
}

// A near miss that is told already, as for each frame of a session that stays near its limit, takes
// no memory.
func TestNearMissesToldAlreadyAllocateNothing(t *testing.T) {
	sessions := make(chan *Session, 1)
	srv := serve(t, Config{}, &funcs{accept: func(s *Session) { sessions <- s }})
	dial(t, srv)
	s := <-sessions
	if n := testing.AllocsPerRun(100, func() { srv.near(LimitPending, s, 9, 10) }); n > 0 {
		t.Errorf("%v allocations each", n)
	}
}

// The limits that are nobody's are told too: with who has come where somebody has.
func TestNearMissesOfTheServer(t *testing.T) {
	pool, err := NewPool(PoolConfig{Workers: 1, Spare: Off, MaxQueue: 10, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := pool.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pool.Stop(context.Background()) })
	srv := serve(t, Config{Dispatch: Inline, Pool: pool, Limits: Limits{MaxConns: 10, MaxConnsPerIP: 10}, Timeouts: Timeouts{Linger: 80 * time.Millisecond}}, &funcs{read: echo})
	var last *client
	for i := range 9 {
		if n := len(srv.NearMisses()); n != 0 {
			t.Fatalf("%d near misses with %d connections", n, i)
		}
		last = dial(t, srv)
		last.send(1, 1, "x")
		last.expect(1, 1, "x")
	}
	for _, what := range []Limit{LimitConns, LimitConnsPerIP} {
		if n := nearOf(t, srv, what); n.Used != 9 || n.Most != 10 || n.Remote != last.LocalAddr().String() {
			t.Errorf("got %+v", n)
		}
	}
	gate := make(chan struct{})
	for range 10 {
		if err := pool.Submit(func() { <-gate }); err != nil {
			t.Fatal(err)
		}
	}
	if n := nearOf(t, srv, LimitQueue); n.Used < 9 || n.Most != 10 || n.Session != 0 {
		t.Errorf("got %+v", n)
	}
	close(gate)

	k := newDesk(t, Config{Limits: Limits{MaxOutbox: 1 << 20, MemoryBudget: 64 << 20}}, &funcs{})
	k.open(-1)
	for k.Broadcast(1, 1, make([]byte, 10_000)) == nil {
	}
	k.nearNow(0)
	if n := nearOf(t, k.Server, LimitOutbox); n.Used < 900_000 {
		t.Errorf("got %+v", n)
	}
	k.budget.Add(60 << 20)
	k.nearNow(k.budget.TakePeak())
	nearOf(t, k.Server, LimitMemory)
	k.budget.Add(-60 << 20)
	s, _ := k.open(-1)
	k.fdShed.Store(1000)
	k.nearAccept(s, 899)
	if slices.ContainsFunc(k.NearMisses(), func(n NearMiss) bool { return n.Limit == LimitFiles }) {
		t.Error("899 descriptors of 1000 are near")
	}
	k.nearAccept(s, 950)
	nearOf(t, k.Server, LimitFiles)
}

// Of one limit and session there is one in a second, however often it is near, and no more
// are kept than are asked for.
func TestNearMissesAreFew(t *testing.T) {
	k := newDesk(t, Config{RecorderKeep: 8}, &funcs{})
	a, _ := k.open(-1)
	b, _ := k.open(-1)
	near := func(s *Session, what Limit) int {
		before := k.nearCount[what].Load()
		for range 100 {
			k.near(what, s, 95, 100)
		}
		return int(k.nearCount[what].Load() - before)
	}
	for _, x := range []struct {
		s    *Session
		what Limit
		want int
	}{{a, LimitOutbound, 1}, {a, LimitOutbound, 0}, {a, LimitPending, 1}, {b, LimitOutbound, 1}, {a, LimitConns, 1}, {b, LimitConns, 0}, {nil, LimitMemory, 1}} {
		if n := near(x.s, x.what); n != x.want {
			t.Errorf("%v of %v: %d noted, want %d", x.what, x.s, n, x.want)
		}
	}
	k.epoch = k.epoch.Add(-nearEvery)
	if n := near(a, LimitOutbound); n != 1 {
		t.Errorf("a second later: %d noted, want 1", n)
	}
	for i := range 3 * nearMost {
		k.nears.first(nearKey{what: LimitOutbound, id: ID(1000 + i)}, k.now())
	}
	if n := len(k.nears.seen); n > nearMost {
		t.Errorf("%d sessions are remembered, want at most %d", n, nearMost)
	}
	k.epoch = k.epoch.Add(-nearEvery)
	if n := near(b, LimitOutbound); n != 1 {
		t.Errorf("a second after too many: %d noted, want 1", n)
	}
	if list := k.NearMisses(); len(list) > 8 || list[len(list)-1].Session != b.ID() {
		t.Errorf("kept %+v", list)
	}
	text, err := json.Marshal(NearMiss{Limit: LimitOutbound, Session: b.ID(), Remote: "x", Used: 1, Most: 2})
	if err != nil || !strings.Contains(string(text), `"limit":"max_outbound"`) || !strings.Contains(string(text), `"session":"`+b.ID().String()+`"`) {
		t.Errorf("got %s, %v", text, err)
	}
}

// Hooks may block, panic and end their goroutine: they hold up nobody and those behind them
// are called; what finds no room is counted.
func TestHooksHoldNobodyUp(t *testing.T) {
	gate := make(chan struct{})
	var calls atomic.Int32
	k := newDesk(t, Config{OnNearMiss: func(n NearMiss) {
		<-gate
		switch calls.Add(1) {
		case 1:
			panic("on purpose")
		case 2:
			runtime.Goexit()
		}
	}}, &funcs{})
	const all = hooksMost + 100
	for i := range all {
		k.nears.mu.Lock()
		clear(k.nears.seen)
		k.nears.mu.Unlock()
		k.near(LimitMemory, nil, i, i)
		if i == 0 {
			waitFor(t, "the first call", func() bool {
				k.hooks.mu.Lock()
				defer k.hooks.mu.Unlock()
				return len(k.hooks.waiting) == 0
			})
		}
	}
	close(gate)
	waitFor(t, "the calls", func() bool { return int(calls.Load())+int(k.Stats().HooksLost) == all })
	if n := k.Stats().HooksLost; n != 99 {
		t.Errorf("%d calls were left out, want 99", n)
	}
	if n := k.Stats().Panics; n != 2 {
		t.Errorf("%d panics are counted, want 2", n)
	}
}
