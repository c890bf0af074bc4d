package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/dispatch"
)

func inlined(srv *Server) (n uint64) {
	for _, l := range srv.Stats().Loops {
		n += l.Inline
	}
	return n
}

// A handle that has shown itself quick runs inline, one that takes long never does, and
// one that turns slow goes back to the workers, which is logged.
func TestAdaptiveLearnsAndTakesBack(t *testing.T) {
	var log logText
	var slow atomic.Bool
	srv := serve(t, Config{Logger: textLog(&log)}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 4 || p.Sub == 2 && slow.Load() {
			time.Sleep(12 * time.Millisecond)
		}
		echo(s, p)
	}})
	c := dial(t, srv)
	do := func(sub uint16, n int) uint64 {
		before := inlined(srv)
		for range n {
			c.send(1, sub, "x")
			c.expect(1, sub, "x")
		}
		return inlined(srv) - before
	}
	waitFor(t, "the quick handle to go inline", func() bool { return do(2, 20) > 0 })
	if n := do(4, 20); n != 0 {
		t.Errorf("a handle of 12 ms ran inline %d times", n)
	}
	slow.Store(true)
	if n := do(2, 20); n < 1 || n > 3 {
		t.Errorf("a handle that turned slow ran inline %d times more, want at most 3", n)
	}
	if st := srv.Stats(); st.Demoted != 1 {
		t.Errorf("%d demoted", st.Demoted)
	}
	srv.Stop(within(t, time.Second))
	if n := strings.Count(log.String(), "moved to the workers"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

// SetDispatch holds while the server runs.
func TestSetDispatchWhileRunning(t *testing.T) {
	srv := serve(t, Config{Dispatch: Ordered}, &funcs{read: echo})
	c := dial(t, srv)
	for i, want := range []Dispatch{Ordered, Inline, Ordered, Inline, Adaptive} {
		if i > 0 {
			srv.SetDispatch(1<<16|1, want)
		}
		before := inlined(srv)
		for range 10 {
			c.send(1, 1, "x")
			c.expect(1, 1, "x")
		}
		if got := inlined(srv) - before; want == Inline && got < 9 || want != Inline && got != 0 {
			t.Errorf("step %d, %v: %d of 10 inline", i, want, got)
		}
	}
}

// Frames of handles that run in different places are handled in the order they came, and
// never two at once.
func TestOrderAcrossInlineAndWorkers(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			var inside sync.Map
			srv := serve(t, Config{Dispatch: mode, Handles: map[uint32]Dispatch{1<<16 | 1: Inline, 1<<16 | 2: Ordered}},
				&funcs{read: func(s *Session, p codec.Packet) {
					if _, in := inside.LoadOrStore(s.ID(), true); in {
						t.Error("two callbacks of one session at once")
					}
					n, _ := s.Value().(uint32)
					if got := binary.BigEndian.Uint32(p.Body); got != n {
						t.Errorf("frame %d, want %d", got, n)
					}
					s.SetValue(n + 1)
					if n%50 == 0 {
						s.Submit(func() {
							if _, in := inside.Load(s.ID()); in {
								t.Error("a submitted function inside a callback")
							}
						})
					}
					echo(s, p)
					inside.Delete(s.ID())
				}})
			var wg sync.WaitGroup
			for g := range 8 {
				c := dial(t, srv)
				r := rand.New(rand.NewPCG(7, uint64(g)))
				const frames = 2000
				wg.Add(2)
				go func() {
					defer wg.Done()
					var b []byte
					for i := range frames {
						b = codec.Packet{Main: 1, Sub: uint16(1 + r.IntN(3)), Body: binary.BigEndian.AppendUint32(nil, uint32(i))}.Append(b)
						if n := r.IntN(len(b) + 1); n > 20 { // any pieces
							c.Write(b[:n])
							b = append([]byte(nil), b[n:]...)
						}
					}
					c.Write(b)
				}()
				go func() {
					defer wg.Done()
					for i := range frames {
						if p, err := c.read(); err != nil || binary.BigEndian.Uint32(p.Body) != uint32(i) {
							t.Errorf("reply %d: %v %v", i, p, err)
							return
						}
					}
				}()
			}
			wg.Wait()
		})
	}
}

// The handler can be changed at any time; a packet has one handler, the sessions stay.
func TestSetHandlerWhileRunning(t *testing.T) {
	named := func(name string) *funcs {
		return &funcs{read: func(s *Session, p codec.Packet) { s.Reply(p, []byte(name)) }}
	}
	srv := serve(t, Config{}, named("0"))
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 4 {
		c := dial(t, srv)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for last := -1; ; {
				select {
				case <-stop:
					return
				default:
				}
				c.send(1, 1, "")
				p, err := c.read()
				var n int
				if _, e := fmt.Sscan(string(p.Body), &n); err != nil || e != nil || n < last {
					t.Errorf("got %q, %v after handler %d", p.Body, err, last)
					return
				}
				last = n
			}
		}()
	}
	for i := range 200 {
		srv.SetHandler(named(fmt.Sprint(i)))
		time.Sleep(200 * time.Microsecond)
	}
	c := dial(t, srv)
	c.send(1, 1, "")
	c.expect(1, 1, "199")
	close(stop)
	wg.Wait()
}

// Every layout works through a server: echo, a sequence number, an ERROR about it, a bad
// length.
func TestEveryLayoutThroughAServer(t *testing.T) {
	for _, prefix := range []string{"", "\xca\xfe\xba"} {
		for _, width := range []int{2, 4} {
			for _, adjust := range []int{0, -width, 3} {
				for _, command := range []codec.Command{codec.MainSub16, codec.MainSub8, codec.Handle32} {
					for _, bits := range []int{0, 1, 2, 3} {
						lay := codec.Layout{Prefix: []byte(prefix), LengthWidth: width, LengthAdjust: adjust, Command: command, Seq: bits&1 != 0, LittleEndian: bits&2 != 0}
						if adjust > 0 && command == codec.MainSub8 && bits&1 == 0 {
							continue // an empty body's length would be negative
						}
						t.Run(fmt.Sprintf("%q/%d/%d/%d/%d", prefix, width, adjust, command, bits), func(t *testing.T) {
							t.Parallel()
							c, err := codec.New(lay, 0)
							if err != nil {
								t.Fatal(err)
							}
							srv := serve(t, Config{Layout: lay, MaxFrame: c.MaxFrame(), Loops: 1, Workers: 2, Timeouts: Timeouts{Linger: 20 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
								if p.Sub == 7 {
									s.ReplyError(p, CodeConflict, "no")
									return
								}
								echo(s, p)
							}})
							cl := dial(t, srv)
							r := codec.NewReader(cl, c)
							cl.SetDeadline(time.Now().Add(time.Minute))
							next := func() codec.Packet {
								p, err := r.Next()
								if err != nil {
									t.Fatal(err)
								}
								return p
							}
							seq := uint32(0)
							if lay.Seq {
								seq = 0xdeadbeef
							}
							b := []byte{}
							for _, body := range []string{"", "x", strings.Repeat("y", 5000)} {
								b = must(c.Append(b, codec.Packet{Main: 3, Sub: 4, Seq: seq, Body: []byte(body)}))
							}
							for i := range 10 { // in pieces
								cl.Write(b[len(b)*i/10 : len(b)*(i+1)/10])
							}
							for _, n := range []int{0, 1, 5000} {
								if p := next(); p.Main != 3 || p.Sub != 4 || p.Seq != seq || len(p.Body) != n {
									t.Fatalf("got %d/%d seq %d, %d bytes, want 3/4, %d, %d", p.Main, p.Sub, p.Seq, len(p.Body), seq, n)
								}
							}
							cl.Write(must(c.Append(nil, codec.Packet{Main: 3, Sub: 7, Seq: seq})))
							if p := next(); p.Main != 0 || p.Sub != SubError || p.Seq != seq || len(p.Body) != 8 {
								t.Errorf("got %v, want an ERROR with its Seq", p)
							}
							cl.Write(append([]byte(prefix), 0, 0, 0, 0)) // too short in every layout but one
							if adjust <= 0 {
								if p := next(); p.Main != 0 || p.Sub != SubError {
									t.Errorf("got %v, want ERROR 1", p)
								}
							}
						})
					}
				}
			}
		}
	}
}

// One blocked call among many quick ones in a batch is seen too: otherwise a handle that
// blocks now and then would hold its loop up for good.
func TestOneBlockedCallInABatchIsSeen(t *testing.T) {
	var slow atomic.Bool
	srv := serve(t, Config{}, &funcs{read: func(s *Session, p codec.Packet) {
		if len(p.Body) > 0 && slow.Load() {
			time.Sleep(6 * time.Millisecond)
		}
		echo(s, p)
	}})
	c := dial(t, srv)
	waitFor(t, "the handle to go inline", func() bool {
		c.send(1, 1, "")
		c.expect(1, 1, "")
		return inlined(srv) > 0
	})
	slow.Store(true)
	var b []byte
	for i := range 40 {
		b = append(b, frame(1, 1, "x"[:i/39])...)
	}
	for range 3 {
		c.Write(b)
		for i := range 40 {
			c.expect(1, 1, "x"[:i/39])
		}
	}
	if n := srv.Stats().Demoted; n != 1 {
		t.Errorf("%d demoted after three batches with a blocked call each", n)
	}
}

// A long turn is held against each of its handles once, however they alternate, and not
// at all when it only was of many packets.
func TestALongTurnIsOneStrikeForEachOfItsHandles(t *testing.T) {
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}, &funcs{})
	if err != nil {
		t.Fatal(err)
	}
	var turn []byte
	for i := range 32 {
		turn = append(turn, frame(1, uint16(1+i%2), "")...)
	}
	for range 8 {
		srv.handles.table.Learn(1<<16|1, 0)
		srv.handles.table.Learn(1<<16|2, 0)
	}
	inline := func() (n int) {
		for _, h := range []uint32{1<<16 | 1, 1<<16 | 2} {
			if srv.handles.table.Inline(h, dispatch.Adaptive) {
				n++
			}
		}
		return n
	}
	for range 10 {
		srv.handles.judge(srv.framing.codec, bytes.Repeat(turn, 256), 8192, 41*time.Millisecond)
	}
	if inline() != 2 {
		t.Fatal("demoted for many packets of 5 µs each")
	}
	for i := range 3 {
		if inline() != 2 || srv.demoted.Load() != 0 {
			t.Fatalf("%d of 2 inline after %d turns of 5 ms", inline(), i)
		}
		srv.handles.judge(srv.framing.codec, turn, 32, 5*time.Millisecond)
	}
	if inline() != 0 || srv.demoted.Load() != 2 {
		t.Errorf("%d inline, %d demoted after three long turns, want 0 and 2", inline(), srv.demoted.Load())
	}
}

// Of what one read brings a loop handles no more than it may in one turn, however quick the frames
// are, and leaves the rest to the workers: other sessions of the loop must not wait for it.
func TestALongReadIsShared(t *testing.T) {
	const frames = 20 * inlinePackets
	began, sent := make(chan *Session), make(chan bool)
	srv := serve(t, Config{Dispatch: Inline, Loops: 1}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 2 { // until all that follows is there, so that the next read brings it
			began <- s
			<-sent
		} else if p.Sub == 1 { // so many of these take longer than a turn may
			for from := time.Now(); time.Since(from) < 2*inlineMost/inlinePackets; {
			}
		}
		s.Reply(p, p.Body)
	}})
	c := dial(t, srv)
	c.send(1, 2, "hold")
	s := <-began
	c.Write(bytes.Repeat(frame(1, 1, ""), frames))
	waitFor(t, "the kernel to have it", func() bool { return s.conn.Unread() == frames*len(frame(1, 1, "")) })
	close(sent)
	c.expect(1, 2, "hold")
	for range frames {
		c.expect(1, 1, "")
	}
	if n := inlined(srv); n > 1+inlinePackets {
		t.Errorf("%d frames were handled on the loop, want at most %d in front of the %d that follow", n, 1+inlinePackets, frames-inlinePackets)
	}
}
