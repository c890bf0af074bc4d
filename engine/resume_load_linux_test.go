package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// Many clients are cut at once, again and again, in the middle of their requests: each ends
// with the answers that it asked for, in order and once, and each request ran once.
func TestManyClientsAreCutAtOnce(t *testing.T) {
	clients, rounds := 100, 5
	if *long {
		clients, rounds = 1000, 20
	}
	const each = 30 // requests of a client in a round
	h := newResumable()
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.Loops = 3
	srv := serve(t, cfg, h)
	list := make([]*resumer, clients)
	for i := range list {
		list[i] = &resumer{url: srv.URLs()[0], ackEvery: 16}
	}
	for round := range rounds {
		var wg sync.WaitGroup
		for i, p := range list {
			wg.Go(func() {
				for n := range each {
					p.ask(1, 1, fmt.Sprintf("%d %d %d", i, round, n))
				}
				cut := rand.IntN(each * 20)
				where := cuts{{-1, cut}, {cut / 2, -1}}
				if err := p.goOn((round+1)*each, where); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		for _, p := range list { // all at once
			p.close()
			p.conn = nil
		}
	}
	for i, p := range list {
		for n, f := range p.got {
			if want := fmt.Sprintf("%d %d %d", i, n/each, n%each); string(f.Body) != want {
				t.Fatalf("answer %d of client %d is %q, want %q", n, i, f.Body, want)
			}
		}
	}
	if got, want := h.ran.Load(), int64(clients*rounds*each); got != want {
		t.Errorf("%d requests ran, want %d", got, want)
	}
	st := srv.Stats()
	t.Logf("%d clients, %d rounds: %d breaks, %d resumed", clients, rounds, st.Detached, st.Resumed)
}

// Several connections want one session at the same time, while it is sent to and asked: one
// has it at any moment, the frames of all together are those of one client, and nobody is
// sent a frame after he was replaced.
func TestTakeoversRace(t *testing.T) {
	rounds := 60
	if *long {
		rounds = 2000
	}
	for _, d := range []Dispatch{Adaptive, Inline} {
		t.Run(d.String(), func(t *testing.T) {
			h := newResumable()
			cfg := resumeConfig("tcp://127.0.0.1:0")
			cfg.Loops, cfg.Dispatch = 4, d
			srv := serve(t, cfg, h)
			p := &resumer{url: srv.URLs()[0], ackEvery: 5}
			for round := range rounds {
				for n := range 5 {
					p.ask(1, 1, fmt.Sprint(round, " ", n))
				}
				// Others with the same token come and go. They have no part in the counting, as
				// they send nothing behind their HELLO.
				var others sync.WaitGroup
				if len(p.tokens) > 0 {
					for range 3 {
						other := &resumer{url: p.url, received: p.received, tokens: [][]byte{p.tokens[0]}}
						others.Go(func() { other.onlyHello() })
					}
				}
				if err := p.goOn((round+1)*5, nil); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				others.Wait()
				p.close()
				p.conn = nil
			}
			for n, f := range p.got {
				if want := fmt.Sprint(n/5, " ", n%5); string(f.Body) != want {
					t.Fatalf("answer %d is %q, want %q", n, f.Body, want)
				}
			}
			if n := h.ran.Load(); n != int64(rounds*5) {
				t.Errorf("%d requests ran, want %d", n, rounds*5)
			}
			t.Logf("%d replaced", srv.Stats().Closes[ReasonReplaced])
		})
	}
}

// What sessions keep is bounded: a broadcast is held once, however many have not
// acknowledged it, and what each keeps for itself stays within its ring. When they have it
// all, the memory is free.
func TestRingsAreBoundedAndShared(t *testing.T) {
	clients := 300
	if *long {
		clients = 2000
	}
	var sessions sync.Map
	h := &funcs{read: echo, accept: func(s *Session) { sessions.Store(s, true) }}
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.ResumeBytes = 128 << 10
	srv := serve(t, cfg, h)
	list := make([]*resumer, clients)
	for i := range list {
		list[i] = hello(t, srv)
		list[i].close()
	}
	waiting(t, srv, clients)
	before := heapNow()
	const casts, size = 20, 5000
	for range casts {
		if err := srv.Broadcast(3, 1, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the broadcasts to be kept", func() bool { return srv.Stats().Memory >= casts*size })
	waitFor(t, "the walk", func() bool {
		for _, l := range srv.Stats().Loops {
			if l.Outbox > 0 {
				return false
			}
		}
		return true
	})
	if got, most := heapNow()-before, clients*casts*100+(1<<20); got > most {
		t.Errorf("%d sessions keep %d broadcasts of %d bytes in %d bytes, want at most %d", clients, casts, size, got, most)
	}
	shared := srv.Stats().Memory
	sessions.Range(func(s, _ any) bool {
		for n := range 20 {
			s.(*Session).Push(2, 4, []byte(strings.Repeat(string(rune('a'+n)), 200)))
		}
		return true
	})
	own := clients * 20 * 208
	waitFor(t, "the pushes to be kept, in little more than their size", func() bool {
		got := srv.Stats().Memory - shared
		return got >= own && got <= own*5/2
	})
	if got, counted := heapNow()-before, srv.Stats().Memory; got > counted*3/2+(1<<20) {
		t.Errorf("%d bytes of heap for %d that are counted", got, counted)
	}
	var wg sync.WaitGroup
	for _, p := range list {
		wg.Go(func() {
			p.reconnect(t)
			p.want(t, casts+20)
			p.ackNow(t)
		})
	}
	wg.Wait()
	waitFor(t, "the rings to be empty", func() bool { return unaccounted(srv) < 256<<10 })
}

func heapNow() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse)
}

// A client may write for ever without reading or acknowledging; once it reads, all of it is
// answered, although its acknowledgements stand behind its requests. What the server holds
// for it stays within the limits.
func TestPipeliningIsNotRefusedWithResume(t *testing.T) {
	h := newResumable()
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.ResumeBytes, cfg.MaxOutbound, cfg.MaxPending = 64<<10, 256<<10, 128<<10
	cfg.FrameTimeout = time.Minute
	cfg.SocketRecvBuffer, cfg.SocketSendBuffer = 64<<10, 64<<10
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	p.ackEvery = 16
	const n, size = 3000, 1000
	written := make(chan error, 1)
	var most atomic.Int64
	body := strings.Repeat("x", size)
	var mu sync.Mutex // of what is written: requests, and acknowledgements behind them
	go func() {
		var err error
		for i := 0; i < n && err == nil; i += 100 {
			mu.Lock()
			_, err = p.conn.Write([]byte(strings.Repeat(string(frame(1, 1, body)), 100)))
			mu.Unlock()
		}
		written <- err
	}()
	quiet := func() bool { // the server has stopped reading
		before := h.ran.Load()
		time.Sleep(300 * time.Millisecond)
		return before > 0 && h.ran.Load() == before
	}
	waitFor(t, "the server to stop", quiet)
	most.Store(int64(srv.Stats().Memory))
	if m := most.Load(); m > 2*(256<<10+128<<10) {
		t.Errorf("%d bytes are held", m)
	}
	r := codec.NewReader(p.conn, nil)
	acks := make(chan uint64, n)
	go func() {
		for got := range acks {
			mu.Lock()
			p.write(SubAck, p.count(got))
			mu.Unlock()
		}
	}()
	defer close(acks)
	for got := uint64(0); got < n; {
		f, err := r.Next()
		if err != nil {
			t.Fatalf("after %d answers: %v", got, err)
		}
		if f.Main == 1 {
			if got++; got%16 == 0 {
				acks <- got
			}
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if ran := h.ran.Load(); ran != n {
		t.Errorf("%d requests ran, want %d", ran, n)
	}
}

// What waiting sessions keep counts in the memory budget, and they end where it is exceeded.
func TestWaitingSessionsAreShedForMemory(t *testing.T) {
	var sessions sync.Map
	ended := make(chan Reason, 100)
	h := &funcs{accept: func(s *Session) { sessions.Store(s, true) }, close: func(_ *Session, why Reason) { ended <- why }}
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.MemoryBudget, cfg.ResumeBytes = 2<<20, 256<<10
	srv := serve(t, cfg, h)
	const clients = 20
	for range clients {
		hello(t, srv).close()
	}
	waiting(t, srv, clients)
	sessions.Range(func(s, _ any) bool {
		for n := range 240 {
			body := []byte(strings.Repeat(string(rune('a'+n%26)), 900))
			for errors.Is(s.(*Session).Push(2, 4, body), ErrBusy) { // until what is unsent is kept
				runtime.Gosched()
			}
		}
		return true
	})
	for range 5 {
		if why := <-ended; why != ReasonMemory {
			t.Fatalf("closed for %v", why)
		}
	}
	waitFor(t, "the memory to be free", func() bool { return srv.Stats().Memory <= 2<<20 })
}
