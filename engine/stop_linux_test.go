package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// Stop may be called by many at once, before Start, during it, and after a failure.
func TestStopAnyTimeByAnyone(t *testing.T) {
	newServer := func() *Server {
		srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}, &funcs{})
		if err != nil {
			t.Fatal(err)
		}
		return srv
	}
	stopAll := func(t *testing.T, srv *Server) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				var loss *LossError
				if err := srv.Stop(within(t, time.Minute)); err != nil && (srv.Err() == nil || !errors.As(err, &loss)) {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		if srv.Running() {
			t.Error("still running")
		}
		<-srv.Done()
	}
	t.Run("before start", func(t *testing.T) {
		srv := newServer()
		stopAll(t, srv)
		if err := srv.Start(context.Background()); err == nil {
			t.Error("started after Stop")
		}
	})
	t.Run("during start", func(t *testing.T) {
		for range 10 {
			srv := newServer()
			started := make(chan error, 1)
			go func() { started <- srv.Start(context.Background()) }()
			runtime.Gosched()
			stopAll(t, srv)
			if err := <-started; err == nil {
				stopAll(t, srv)
			}
		}
	})
	t.Run("running", func(t *testing.T) {
		srv := newServer()
		if err := srv.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		stopAll(t, srv)
	})
	t.Run("failed", func(t *testing.T) {
		srv := newServer()
		if err := srv.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			dial(t, srv)
		}
		waitFor(t, "the sessions", func() bool { return srv.Stats().Conns == 3 })
		(*host)(srv).Failed(errors.New("the loops have ended"))
		<-srv.Done()
		if srv.Err() == nil || srv.Running() {
			t.Errorf("err %v, running %v", srv.Err(), srv.Running())
		}
		began := time.Now()
		stopAll(t, srv)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("Stop after the failure took %v", took)
		}
		if n := srv.table.count(); n != 0 {
			t.Errorf("%d sessions left", n)
		}
	})
}

// Starting and stopping leaves nothing behind: no goroutine, no descriptor.
func TestStartStopLeavesNothing(t *testing.T) {
	fds := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(d)
	}
	once := func(i int) {
		cfg := Config{Timeouts: Timeouts{Linger: 20 * time.Millisecond}, Dispatch: dispatches[i%3], Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}
		if i%5 == 0 {
			cfg.Addrs = append(cfg.Addrs, "unix://"+t.TempDir()+"/s")
			cfg.MaxConns = 100
		}
		srv, err := New(cfg, &funcs{read: echo})
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		c.Write(frame(1, 1, "x"))
		c.Read(make([]byte, 100))
		if i%2 == 0 {
			c.(*net.TCPConn).CloseWrite() // one that ends through its own descriptor
		} else {
			defer c.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	once(0)
	baseFDs, baseGo := fds(), runtime.NumGoroutine()
	for i := range 50 {
		once(i)
	}
	waitFor(t, "goroutines and descriptors to be as before", func() bool {
		return fds() <= baseFDs && runtime.NumGoroutine() <= baseGo+1
	})
}

// Two servers in one process don't know of each other.
func TestTwoEnginesInOneProcess(t *testing.T) {
	a := serve(t, Config{Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
	b := serve(t, Config{Dispatch: Inline}, &funcs{read: func(s *Session, p codec.Packet) { s.Reply(p, []byte("b")) }})
	ca, cb := dial(t, a), dial(t, b)
	ca.send(1, 1, "a")
	ca.expect(1, 1, "a")
	if err := a.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	cb.send(1, 1, "a")
	cb.expect(1, 1, "b")
	dial(t, b).send(1, 1, "x")
	if _, err := net.DialTimeout("tcp", a.Addrs()[0].String(), time.Second); err == nil {
		t.Error("the stopped one still accepts")
	}
}

// While many clients pipeline, a Stop answers every request with its reply or ERROR 7,
// or the client sees that it was not taken: never is an answered order broken.
func TestDrainAnswersEveryRequestThatWasRead(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			var read atomic.Int64
			h := &funcs{read: func(s *Session, p codec.Packet) {
				read.Add(1)
				time.Sleep(2 * time.Millisecond)
				s.Reply(p, p.Body)
			}}
			srv := serve(t, Config{Dispatch: mode, Handles: map[uint32]Dispatch{1<<16 | 1: Ordered}}, h)
			const clients = 50
			var answered, refused, goaways atomic.Int64
			var wg sync.WaitGroup
			for range clients {
				c := dial(t, srv)
				stop := make(chan struct{})
				wg.Add(2)
				go func() { // writes until told to go away, and a little longer
					defer wg.Done()
					for i := uint32(0); ; i++ {
						if _, err := c.Write(codec.Packet{Main: 1, Sub: 1, Body: binary.BigEndian.AppendUint32(nil, i)}.Append(nil)); err != nil {
							return
						}
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
					}
				}()
				go func() {
					defer wg.Done()
					next := uint32(0)
					told := false
					for {
						p, err := c.read()
						switch {
						case err != nil:
							if !told {
								t.Errorf("ended without GOAWAY: %v", err)
								close(stop)
							}
							c.Close()
							return
						case p.Main == 1:
							if got := binary.BigEndian.Uint32(p.Body); got != next {
								t.Errorf("reply %d, want %d", got, next)
							}
							next++
							answered.Add(1)
						case p.Sub == SubGoAway:
							goaways.Add(1)
							told = true
							time.AfterFunc(20*time.Millisecond, func() { close(stop) })
						case p.Sub == SubError && ErrorCode(binary.BigEndian.Uint16(p.Body)) == CodeDraining:
							refused.Add(1)
							next++
						default:
							t.Errorf("got %d/%d %q", p.Main, p.Sub, p.Body)
						}
					}
				}()
			}
			waitFor(t, "traffic", func() bool { return answered.Load() > 5*clients && srv.Stats().Conns == clients })
			began := time.Now()
			if err := srv.Stop(within(t, 20*time.Second)); err != nil {
				t.Error(err)
			}
			took := time.Since(began)
			wg.Wait()
			st := srv.Stats()
			if answered.Load() != read.Load() || goaways.Load() != clients {
				t.Errorf("%d read by the handler, %d answered; %d of %d GOAWAYs", read.Load(), answered.Load(), goaways.Load(), clients)
			}
			if got := st.FramesIn; got != uint64(answered.Load()+refused.Load()) || st.Dropped != 0 || st.LostBytes != 0 {
				t.Errorf("%d frames in, %d answered, %d refused, %d dropped, %d bytes lost", got, answered.Load(), refused.Load(), st.Dropped, st.LostBytes)
			}
			if took < 100*time.Millisecond {
				t.Errorf("drained in %v: sessions have 100 ms after GOAWAY", took)
			}
		})
	}
}

// Once a server refuses, requests get ERROR 7 about themselves, and the session stays.
func TestDrainRefusesLateRequests(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel() // a second each
			gate := make(chan bool)
			srv := serve(t, Config{Dispatch: mode, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, Handles: map[uint32]Dispatch{1<<16 | 4: Ordered}}, &funcs{read: func(s *Session, p codec.Packet) {
				if p.Sub == 4 {
					release := s.Hold()
					go func() {
						<-gate
						s.Reply(p.Clone(), nil)
						release()
					}()
					return
				}
				echo(s, p)
			}})
			c := dial(t, srv)
			c.send(1, 4, "")
			c.send(1, 1, "x")
			c.expect(1, 1, "x")
			stopped := make(chan error, 1)
			go func() { stopped <- srv.Stop(within(t, 20*time.Second)) }()
			p, err := c.read()
			if err != nil || p.Sub != SubGoAway || len(p.Body) != 4 {
				t.Fatalf("got %v %v, want GOAWAY", p, err)
			}
			if ms := binary.BigEndian.Uint32(p.Body); ms < 15_000 || ms > 20_000 {
				t.Errorf("grace %d ms", ms)
			}
			c.send(1, 1, "still served")
			c.expect(1, 1, "still served")
			waitFor(t, "the server to refuse", func() bool { return refuses(srv) })
			c.send(1, 1, "too late")
			c.expectError(CodeDraining, 1<<16|1)
			c.send(0, SubPing, "")
			c.expect(0, SubPong, "")
			if n, err := dialAddr(t, srv.Addrs()[0]); err == nil {
				n.expectError(CodeDraining, 0)
				n.expectEOF()
			}
			close(gate)
			c.expect(1, 4, "")
			c.expectEOF()
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
	}
}

// What a Stop can't finish it counts.
func TestStopCountsWhatItLoses(t *testing.T) {
	closes := make(chan Reason, 4)
	gate := make(chan bool)
	srv := serve(t, Config{Dispatch: Ordered, Socket: Socket{SocketSendBuffer: 4 << 10}, Limits: Limits{MaxOutbound: 1 << 20}}, &funcs{
		read: func(s *Session, p codec.Packet) {
			switch p.Sub {
			case 1:
				for range 10 {
					s.Send(1, 1, make([]byte, 60_000))
				}
			case 2:
				release := s.Hold() // not before the server has stopped
				t.Cleanup(release)
			case 3:
				<-gate
			}
		},
		close: func(_ *Session, why Reason) { closes <- why },
	})
	deadReader, held, stuck, idle := dial(t, srv), dial(t, srv), dial(t, srv), dial(t, srv)
	deadReader.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	deadReader.send(1, 1, "")
	held.send(1, 2, "")
	stuck.send(1, 3, "")
	stuck.send(1, 3, "waits")
	idle.send(1, 9, "")
	waitFor(t, "all to be read", func() bool { return srv.Stats().FramesIn == 5 })
	go func() { // not before it is cut off, and at most 1 s after
		defer close(gate)
		for end := time.Now().Add(time.Minute); srv.Stats().Closes[ReasonStopped] == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
	}()
	err := srv.Stop(within(t, 2*time.Second))
	var loss *LossError
	if !errors.As(err, &loss) {
		t.Fatalf("got %v, want a *LossError", err)
	}
	if loss.Sessions != 3 || loss.Frames < 2 || loss.Frames > 3 || loss.Bytes < 100_000 {
		t.Errorf("got %v; want 3 sessions, 2 or 3 requests and what was unsent", loss)
	}
	st := srv.Stats()
	if st.Closes[ReasonStopped] != 3 || st.Closes[ReasonDrain] != 1 || st.Conns != 0 {
		t.Errorf("closes %v, %d sessions left", st.Closes, st.Conns)
	}
	if len(closes) != cap(closes) {
		t.Errorf("OnSocketClose ran %d times before Stop returned, want %d at least", len(closes), cap(closes))
	}
}

// What was read before a drain refuses requests is served, however long it waits behind
// a slow handler.
func TestWhatWasReadBeforeTheDrainIsServed(t *testing.T) {
	gate := make(chan bool)
	srv := serve(t, Config{Dispatch: Ordered, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 4 {
			<-gate
		}
		echo(s, p)
	}})
	c := dial(t, srv)
	c.send(1, 4, "")
	for range 100 {
		c.send(1, 1, "waits")
	}
	waitFor(t, "the frames to be read", func() bool { return srv.Stats().FramesIn >= 101 })
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Stop(within(t, 20*time.Second)) }()
	if p, err := c.read(); err != nil || p.Sub != SubGoAway {
		t.Fatalf("got %v %v, want GOAWAY", p, err)
	}
	waitFor(t, "the server to refuse", func() bool { return refuses(srv) })
	c.send(1, 1, "too late")
	waitFor(t, "that to be read", func() bool { return srv.Stats().FramesIn >= 102 })
	close(gate)
	c.expect(1, 4, "")
	for range 100 {
		c.expect(1, 1, "waits")
	}
	c.expectError(CodeDraining, 1<<16|1)
	c.expectEOF()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
