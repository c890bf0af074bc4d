package engine

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// A pool checks its settings, tells before from after its life, and ends.
func TestPoolOutsideOfItsLife(t *testing.T) {
	for _, bad := range []PoolConfig{{Workers: -3}, {Spare: -2}, {MaxQueue: -1}, {StallAfter: -2}} {
		if p, err := NewPool(bad); err == nil {
			t.Errorf("%+v made %v", bad, p)
		}
	}
	p, err := NewPool(PoolConfig{Workers: 1, Spare: Off, StallAfter: Off})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Submit(func() {}); !errors.Is(err, ErrNotRunning) || errors.Is(err, ErrClosed) {
		t.Errorf("before Start: %v", err)
	}
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
	if err := p.Submit(func() {}); !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Stop: %v", err)
	}
	if p.Start(context.Background()) == nil {
		t.Error("started twice")
	}
}

// A server does not start with a context that has ended, and may be started later.
func TestServerStartHonoursItsContext(t *testing.T) {
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}, &funcs{})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := srv.Start(ended); !errors.Is(err, context.Canceled) || srv.Running() || len(srv.Addrs()) != 0 {
		t.Errorf("got %v", err)
	}
	if err := srv.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := srv.Stop(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

// Stop from a callback would wait for itself, wherever that runs: it is refused at once,
// and the server goes on. From a goroutine of its own it is not.
func TestStopFromACallbackIsRefused(t *testing.T) {
	answers := make(chan error, 1)
	ended := make(chan error, 1)
	var victim atomic.Pointer[Server]
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		answers <- victim.Load().Stop(ctx)
	}
	srv := serve(t, Config{Loops: 1, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, Handles: map[uint32]Dispatch{1<<16 | 1: Ordered, 1<<16 | 2: Inline, 1<<16 | 9: Ordered}},
		&funcs{read: func(s *Session, p codec.Packet) {
			switch p.Sub {
			case 1, 2:
				stop()
			case 3:
				s.Submit(stop)
			case 4:
				s.Server().Pool().Submit(stop)
			case 9:
				go func() { stop(); ended <- <-answers }()
			}
		}})
	victim.Store(srv)
	c := dial(t, srv)
	for sub := uint16(1); sub <= 4; sub++ {
		c.send(1, sub, "")
		select {
		case err := <-answers:
			if !errors.Is(err, ErrInCallback) || srv.Draining() {
				t.Errorf("1/%d: got %v, draining %v", sub, err, srv.Draining())
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("1/%d: Stop waits for itself", sub)
		}
	}
	c.send(1, 9, "")
	if err := <-ended; err != nil {
		t.Errorf("from a goroutine of its own: %v", err)
	}
}

// With a shared pool a server may be stopped by what it would not wait for: a function,
// or another server's callback.
func TestStopFromAnotherServersCallback(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 4})
	answers := make(chan error, 1)
	var victim atomic.Pointer[Server]
	stop := func() { answers <- victim.Load().Stop(context.Background()) }
	other := serve(t, Config{Pool: p, Dispatch: Ordered, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(*Session, codec.Packet) { stop() }})
	for _, from := range []string{"function", "callback"} {
		srv := serve(t, Config{Pool: p, Dispatch: Ordered, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(*Session, codec.Packet) { stop() }})
		victim.Store(srv)
		c := dial(t, srv)
		c.send(1, 1, "")
		if err := <-answers; !errors.Is(err, ErrInCallback) {
			t.Errorf("from its own callback: %v", err)
		}
		if from == "function" {
			p.Submit(stop)
		} else {
			dial(t, other).send(1, 1, "")
		}
		if err := <-answers; err != nil {
			t.Errorf("from a %s: %v", from, err)
		}
	}
}

// What holds a worker up is reported by session and packet while it lasts: each of the
// packets of one batch that does, and none that doesn't.
func TestStallNamesSessionAndPacket(t *testing.T) {
	var mu sync.Mutex
	var got []Stall
	var log logText
	inside, gate := make(chan string, 4), make(chan bool)
	block := func(s *Session) {
		inside <- s.ID().String()
		<-gate
	}
	srv := serve(t, Config{Dispatch: Ordered, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, StallAfter: 40 * time.Millisecond, Logger: textLog(&log), OnStall: func(s Stall) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, s)
	}}, &funcs{read: func(s *Session, p codec.Packet) {
		switch p.Sub {
		case 7:
			block(s)
		case 8:
			s.Submit(func() { block(s) })
		}
	}})
	c := dial(t, srv)
	var b []byte
	for _, sub := range []uint16{1, 2, 7, 3, 4, 7, 8, 5} {
		b = append(b, frame(3, sub, "")...)
	}
	c.Write(b)
	for i, sub := range []uint16{7, 7, 0} {
		id := <-inside
		waitFor(t, "the report", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == i+1 })
		want := Stall{Where: "worker", Session: id, Main: 3, Sub: sub}
		if sub == 0 {
			want.Main = 0
		}
		mu.Lock()
		st := got[i]
		mu.Unlock()
		if !strings.Contains(st.Stack, "TestStallNamesSessionAndPacket") || st.For < 40*time.Millisecond {
			t.Errorf("after %v, stack %q", st.For, st.Stack)
		}
		st.Stack, st.At, st.For = "", time.Time{}, 0
		if st != want {
			t.Errorf("got %+v, want %+v", st, want)
		}
		gate <- true
	}
	if n := srv.Stats().Pool.Stalls; n != 3 {
		t.Errorf("%d counted, want 3", n)
	}
	srv.Stop(within(t, time.Minute))
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "TestStallNamesSessionAndPacket") {
		t.Errorf("logged %s", text)
	}
}

// A process that may use few of the machine's CPUs gets loops and workers for those.
func TestDefaultsGoByTheCPUsOfThisProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	if c := (Config{}).WithDefaults(); c.Loops != 3 || c.Workers != 6 {
		t.Errorf("%d loops, %d workers for 3 CPUs, want 3 and 6", c.Loops, c.Workers)
	}
	p := runPool(t, PoolConfig{})
	if n := p.Stats().Workers; n != 6 {
		t.Errorf("a pool of %d workers for 3 CPUs, want 6", n)
	}
}

// A pool may be shared; the server does not stop what it has not started.
func TestSharedPool(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2})
	for range 2 {
		srv := serve(t, Config{Pool: p, Dispatch: Ordered, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
		c := dial(t, srv)
		c.send(1, 1, "x")
		c.expect(1, 1, "x")
		if err := srv.Stop(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		if !p.Running() {
			t.Fatal("the server stopped the shared pool")
		}
	}
	idle, _ := NewPool(PoolConfig{})
	srv, err := New(Config{Pool: idle, Addrs: []string{"tcp://127.0.0.1:0"}}, &funcs{})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("got %v", err)
	}
}
