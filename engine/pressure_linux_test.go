package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
)

// A client that writes and writes and reads nothing is blocked by TCP, costs the server
// a few megabytes, and gets every byte in the end.
func TestBackPressureOfUnreadAnswers(t *testing.T) {
	total, pause := 24*mib, time.Second
	if *long {
		total, pause = 96*mib, 3*time.Second
	}
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			srv := spawn(t, childConfig{Config: Config{Dispatch: mode}})
			warm := srv.dial()
			warm.send(1, 1, "x")
			warm.expect(1, 1, "x")
			c := srv.dial()
			idle := srv.rss()
			one := frame(1, 1, string(bytes.Repeat([]byte("0123456789abcdef"), 63)))
			var written atomic.Int64
			sent := make(chan error, 1)
			go func() {
				b := bytes.Repeat(one, 64)
				for n := 0; n < total/len(one); n += 64 {
					m, err := c.Write(b)
					written.Add(int64(m))
					if err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			peak, stood, before := 0, time.Duration(0), int64(-1)
			for end := time.Now().Add(pause); time.Now().Before(end) || stood < pause/4 && time.Now().Before(end.Add(20*time.Second)); time.Sleep(20 * time.Millisecond) {
				peak = max(peak, srv.rss())
				if n := written.Load(); n == before {
					stood += 20 * time.Millisecond
				} else {
					before, stood = n, 0
				}
			}
			blockedAt := written.Load()
			if stood < pause/4 || blockedAt > int64(total)*9/10 {
				t.Errorf("the client wrote %d MiB and stood for %v: not pushed back", blockedAt/mib, stood)
			}
			warm.send(1, 1, "still served")
			warm.expect(1, 1, "still served")
			got := bufioAll(c, total/len(one)/64*64*len(one), one)
			if got != nil {
				t.Error(got)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			peak = max(peak, srv.rss())
			if grown := peak - idle; grown > 16*mib*slack {
				t.Errorf("the server grew by %d MiB", grown/mib)
			}
			st := srv.stats()
			t.Logf("blocked at %.1f MiB; RSS %.1f MiB idle, %.1f at most; %d pauses", float64(blockedAt)/mib, float64(idle)/mib, float64(peak)/mib, st.Loops[0].Pauses+st.Loops[len(st.Loops)-1].Pauses)
		})
	}
}

// bufioAll reads n bytes and checks that they are one after another.
func bufioAll(c *client, n int, one []byte) error {
	c.SetReadDeadline(time.Now().Add(60 * time.Second))
	b := make([]byte, 256<<10)
	for at := 0; at < n; {
		m, err := c.Read(b[:min(len(b), n-at)])
		if err != nil {
			return fmt.Errorf("at %d of %d: %w", at, n, err)
		}
		for i := 0; i < m; {
			off := (at + i) % len(one)
			k := min(len(one)-off, m-i)
			if !bytes.Equal(b[i:i+k], one[off:off+k]) {
				return fmt.Errorf("wrong bytes at %d", at+i)
			}
			i += k
		}
		at += m
	}
	return nil
}

// A client that floods a slow handler is blocked by TCP, and every request is answered.
func TestBackPressureOfASlowHandler(t *testing.T) {
	frames := 300 // of 64 KiB
	if *long {
		frames = 2048
	}
	for _, mode := range []Dispatch{Adaptive, Ordered} {
		t.Run(mode.String(), func(t *testing.T) {
			srv := spawn(t, childConfig{Config: Config{Dispatch: mode}, Sleep: 5 * time.Millisecond})
			c, other := srv.dial(), srv.dial()
			other.send(1, 1, "x")
			other.expect(1, 1, "x")
			idle := srv.rss()
			body := make([]byte, 65_000)
			var written atomic.Int64
			go func() {
				for i := range frames {
					binary.BigEndian.PutUint64(body, uint64(i))
					c.Write(codec.Packet{Main: 1, Sub: 5, Body: body}.Append(nil))
					written.Add(1)
				}
			}()
			peak, worst, lead := 0, time.Duration(0), int64(0)
			for i := range frames {
				p, err := c.read()
				if err != nil || binary.BigEndian.Uint64(p.Body) != uint64(i) {
					t.Fatalf("answer %d: %v %v", i, p.Body, err)
				}
				lead = max(lead, written.Load()-int64(i))
				if i%10 == 0 {
					peak = max(peak, srv.rss())
					began := time.Now()
					other.send(1, 1, "y")
					other.expect(1, 1, "y")
					worst = max(worst, time.Since(began))
				}
			}
			if lead > 250 {
				t.Errorf("the client was %d frames ahead: not pushed back", lead)
			}
			if grown := peak - idle; grown > 16*mib*slack {
				t.Errorf("the server grew by %d MiB", grown/mib)
			}
			if worst > time.Second*slack {
				t.Errorf("another client waited %v", worst)
			}
			t.Logf("at most %d frames ahead, RSS +%.1f MiB, another client's slowest echo %v", lead, float64(peak-idle)/mib, worst)
		})
	}
}

// Handlers that block hold back their own sessions: with all workers and more inside
// one, others are answered at once.
func TestBlockedHandlersHoldBackTheirOwn(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			var inside atomic.Int32
			gate := make(chan bool)
			srv := serve(t, Config{Dispatch: mode, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, Handles: map[uint32]Dispatch{1<<16 | 4: Ordered}}, &funcs{read: func(s *Session, p codec.Packet) {
				if p.Sub == 4 {
					inside.Add(1)
					select {
					case <-gate:
					case <-time.After(20 * time.Second):
					}
				}
				echo(s, p)
			}})
			var asleep []*client
			began := time.Now()
			for range 64 {
				c := dial(t, srv)
				c.send(1, 4, "")
				asleep = append(asleep, c)
			}
			c := dial(t, srv)
			var took []time.Duration
			for range 50 {
				at := time.Now()
				c.send(1, 1, "x")
				c.expect(1, 1, "x")
				took = append(took, time.Since(at))
			}
			waitFor(t, "all 64 to be inside", func() bool { return inside.Load() == 64 })
			t.Logf("all inside after %v, slowest echo %v", time.Since(began), slices.Max(took))
			if worst := slices.Max(took); worst > 5*time.Second { // it would be 20 s behind them
				t.Errorf("the 65th waited %v", worst)
			}
			close(gate)
			for _, c := range asleep {
				c.expect(1, 4, "")
			}
		})
	}
}

// Many sessions, many frames, handlers that sometimes block: each session's frames are
// handled and answered in order, and a session that never blocks is not held up.
func TestOrderThroughWorkersThatSometimesBlock(t *testing.T) {
	sessions, frames := 100, 200
	if *long {
		sessions, frames = 1000, 1000
	}
	h := &funcs{read: func(s *Session, p codec.Packet) {
		n, _ := s.Value().(uint32)
		if got := binary.BigEndian.Uint32(p.Body); got != n && p.Sub == 1 {
			t.Errorf("session %v: frame %d, want %d", s.ID(), got, n)
		}
		s.SetValue(n + 1)
		if p.Sub == 1 && (n*7+s.Index())%500 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		echo(s, p)
	}}
	for _, mode := range []Dispatch{Ordered, Adaptive} {
		t.Run(mode.String(), func(t *testing.T) {
			srv := serve(t, Config{Dispatch: mode, Limits: Limits{MaxConns: 1100}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, h)
			var wg sync.WaitGroup
			for range sessions {
				c := dial(t, srv)
				wg.Add(2)
				go func() {
					defer wg.Done()
					var b []byte
					for i := range frames {
						b = codec.Packet{Main: 1, Sub: 1, Body: binary.BigEndian.AppendUint32(nil, uint32(i))}.Append(b)
						if len(b) > 500 || i == frames-1 {
							c.Write(b)
							b = b[:0]
						}
					}
				}()
				go func() {
					defer wg.Done()
					c.SetReadDeadline(time.Now().Add(60 * time.Second))
					for i := range frames {
						p, err := c.r.Next()
						if err != nil || binary.BigEndian.Uint32(p.Body) != uint32(i) {
							t.Errorf("reply %d: %v %v", i, p.Body, err)
							return
						}
					}
				}()
			}
			done := make(chan bool)
			go func() { wg.Wait(); close(done) }()
			c := dial(t, srv)
			var took []time.Duration
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				at := time.Now()
				c.send(1, 2, "beat")
				c.expect(1, 2, "beat")
				took = append(took, time.Since(at))
			}
			slices.Sort(took)
			mid, worst := took[len(took)/2], took[len(took)-1]
			t.Logf("%d frames; another session's echo: median %v, slowest %v of %d; %d spare workers", sessions*frames, mid, worst, len(took), srv.Stats().Pool.Spawned)
			if worst > 500*time.Millisecond*slack {
				t.Errorf("a session that does not block waited %v", worst)
			}
		})
	}
}

// The ERROR about a bad frame survives the upload behind it: the client sees it, then
// the end, and no reset.
func TestErrorSurvivesTheUploadBehindIt(t *testing.T) {
	tries := 24
	if *long {
		tries = 200
	}
	srv := serve(t, Config{Timeouts: Timeouts{Linger: 500 * time.Millisecond}}, &funcs{read: echo})
	upload := make([]byte, 4*mib)
	copy(upload, []byte{0xff, 0xff, 0xff, 0xff})
	var errs, resets atomic.Int32
	var wg sync.WaitGroup
	slots := make(chan bool, 4)
	for range tries {
		slots <- true
		wg.Add(1)
		go func() {
			defer func() { <-slots; wg.Done() }()
			c := dial(t, srv)
			defer c.Close()
			go c.Write(upload)
			for {
				p, err := c.read()
				switch {
				case err == nil && p.Sub == SubError && p.Body[1] == byte(CodeBadFrame):
					errs.Add(1)
					continue
				case errors.Is(err, syscall.ECONNRESET):
					resets.Add(1)
				case err != io.EOF:
					t.Errorf("got %v %v", p, err)
				}
				return
			}
		}()
	}
	wg.Wait()
	if errs.Load() != int32(tries) || resets.Load() != 0 {
		t.Errorf("%d of %d clients saw the ERROR, %d were reset", errs.Load(), tries, resets.Load())
	}
}

// One broadcast is one write for each session, ten that wait together are one write too,
// and while they are handed out other connections are served.
func TestBroadcastToManySessions(t *testing.T) {
	n := 500
	if *long {
		n = 10_000
	}
	srv := spawn(t, childConfig{Config: Config{Loops: 1, Dispatch: Inline, Limits: Limits{MaxConns: n + 10}, Timeouts: Timeouts{FirstFrameTimeout: Off}}})
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", srv.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	caster := srv.dial()
	caster.send(1, 1, "x")
	caster.expect(1, 1, "x")
	waitFor(t, "all to be there", func() bool { st := srv.stats(); return st.Conns == n+1 && st.Loops[0].Writes == 1 })
	before := srv.stats()
	began := time.Now()
	caster.send(1, 2, "to all") // the child does it ten times within one callback
	want := bytes.Repeat(frame(1, 2, "to all"), 10)
	got := make([]byte, len(want))
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("connection %d: %v, %q", i, err, got)
		}
	}
	took := time.Since(began)
	for range 10 {
		caster.expect(1, 2, "to all")
	}
	after := srv.stats()
	if writes := after.Loops[0].Writes - before.Loops[0].Writes; writes != uint64(n+1) || after.Broadcasts-before.Broadcasts != 10 {
		t.Errorf("%d writes for ten broadcasts to %d sessions, want one for each", writes, n+1)
	}
	// Meanwhile: broadcasts without end, and one connection's echoes.
	other := srv.dial()
	stop := make(chan bool)
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			io.Copy(io.Discard, c)
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				caster.Write(frame(1, 2, "more"))
			}
		}
	}()
	go io.Copy(io.Discard, caster)
	var echoes []time.Duration
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		at := time.Now()
		other.send(1, 1, "echo")
		for {
			p, err := other.read()
			if err != nil {
				t.Fatal(err)
			}
			if p.Sub == 1 {
				break
			}
		}
		echoes = append(echoes, time.Since(at))
	}
	close(stop)
	for _, c := range conns {
		c.Close()
	}
	caster.Close()
	wg.Wait()
	slices.Sort(echoes)
	t.Logf("ten broadcasts to %d in %v; meanwhile echo median %v, slowest %v of %d", n, took, echoes[len(echoes)/2], echoes[len(echoes)-1], len(echoes))
	if len(echoes) < 5 {
		t.Errorf("%d echoes in a second of broadcasts", len(echoes))
	}
}
