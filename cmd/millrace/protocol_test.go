package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Parts 1 and 2 of the wire contract, against a server in its own process.

// dispatches runs a test in every dispatch mode: the contract is the same in all.
func dispatches(t *testing.T, test func(t *testing.T, mode string)) {
	for _, mode := range []string{"adaptive", "ordered", "inline"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, "--dispatch="+mode)
		})
	}
}

func TestEchoGivesTheSameBytes(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		c := serve(t, mode).dial()
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		for _, body := range []string{"", "a", string(all), strings.Repeat("x", 4096), strings.Repeat("y", 65532)} {
			c.echo(body)
		}
	})
}

func TestFramesMayArriveInAnyPieces(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		c := serve(t, mode).dial()
		var stream []byte
		var bodies []string
		for i := range 20 {
			body := strings.Repeat(string(rune('a'+i)), i*7%23)
			bodies = append(bodies, body)
			stream = append(stream, packet{1, 1, body}.bytes()...)
		}
		for _, piece := range []int{1, 3, 4, 5, 7, 8, 9, 64, len(stream)} {
			for rest := stream; len(rest) > 0; {
				n := min(piece, len(rest))
				c.write(rest[:n])
				rest = rest[n:]
			}
			for _, body := range bodies {
				c.want(1, 1, body)
			}
		}
	})
}

func TestABadLengthIsRefusedAfterWhatCameBeforeIt(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"adaptive", "ordered", "inline"} {
		s := serve(t, "--dispatch="+mode)
		for _, n := range []uint32{0, 1, 2, 3, 65537, 1 << 31, 0xFFFFFFFF} {
			for _, before := range []int{0, 1, 50} {
				for _, behind := range []string{"", "more that is thrown away"} {
					t.Run(fmt.Sprintf("%s/length=%d/before=%d/behind=%d", mode, n, before, len(behind)), func(t *testing.T) {
						c := dialAddr(t, s.ready[0])
						var b []byte
						for i := range before {
							b = append(b, packet{1, 1, fmt.Sprint(i)}.bytes()...)
						}
						b = binary.BigEndian.AppendUint32(b, n)
						c.write(append(b, behind...))
						for i := range before {
							c.want(1, 1, fmt.Sprint(i))
						}
						c.wantError(1, 0, 0)
						c.wantEnd()
					})
				}
			}
		}
		s.dial().echo("others go on")
	}
}

// A sleeping handler in front of the bad length is waited for.
func TestABadLengthWaitsForTheAnswersInFrontOfIt(t *testing.T) {
	t.Parallel()
	c := serve(t).dial()
	c.write(append(packet{1, 4, `{"ms":200}`}.bytes(), 0xff, 0xff, 0xff, 0xff))
	c.want(1, 4, `{"slept_ms":200}`)
	c.wantError(1, 0, 0)
	c.wantEnd()
}

// The ERROR arrives though the client goes on writing: no reset destroys it.
func TestABadLengthInAnUploadIsAnsweredWithoutAReset(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for range 20 {
		c := s.dial()
		written := make(chan error, 1)
		go func() {
			b := make([]byte, 900<<10)
			binary.BigEndian.PutUint32(b, 1<<30)
			_, err := c.Write(b)
			if err == nil {
				err = c.Conn.(*net.TCPConn).CloseWrite()
			}
			written <- err
		}()
		c.wantError(1, 0, 0)
		if err := <-written; err != nil {
			t.Fatalf("write: %v", err)
		}
		c.wantEnd()
	}
}

func TestMaxFrameIsTheLargestLength(t *testing.T) {
	s := serve(t, "--max-frame", "100")
	c := s.dial()
	c.echo(strings.Repeat("x", 96))
	c.send(1, 1, strings.Repeat("x", 97))
	c.wantError(1, 0, 0)
	c.wantEnd()
}

func TestSystemFrames(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		c := serve(t, mode).dial()
		for _, body := range []string{"", "hi", strings.Repeat("p", 64)} {
			c.send(0, 1, body)
			c.want(0, 2, body)
		}
		c.send(0, 1, strings.Repeat("p", 65))
		c.wantError(3, 0, 1)
		c.send(0, 2, "an unasked PONG")
		c.echo("is nothing")
		for _, h := range []packet{{0, 3, "\x00\x01\x00\x00\x00\x00"}, {0, 4, "\x00\x00\x00\x00"}, {0, 0, ""}, {0, 99, "x"}} {
			c.send(h.main, h.sub, h.body)
			c.wantError(2, h.main, h.sub)
		}
		c.echo("still open")
	})
}

func TestUnknownAndPushHandlesAreRefused(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		c := serve(t, mode).dial()
		for _, h := range []handle{{1, 8}, {1, 0}, {1, 10}, {2, 4}, {4, 6}, {6, 0}, {6, 6}, {6, 8}, {65535, 65535}, {1, 9}} {
			c.send(h.main, h.sub, "{}")
			c.wantError(2, h.main, h.sub)
		}
		c.echo("still open")
	})
}

func TestAnswersComeInTheOrderOfRequests(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		c := serve(t, mode).dial()
		var b []byte
		for i := range 300 {
			switch i % 4 {
			case 0:
				b = append(b, packet{1, 1, fmt.Sprint(i)}.bytes()...)
			case 1:
				b = append(b, packet{9, uint16(i), ""}.bytes()...)
			case 2:
				b = append(b, packet{1, 4, `{"ms":1}`}.bytes()...)
			case 3:
				b = append(b, packet{1, 4, `{"ms":0}`}.bytes()...)
			}
		}
		c.write(b)
		for i := range 300 {
			switch i % 4 {
			case 0:
				c.want(1, 1, fmt.Sprint(i))
			case 1:
				c.wantError(2, 9, uint16(i))
			case 2:
				c.want(1, 4, `{"slept_ms":1}`)
			case 3:
				c.wantError(3, 1, 4)
			}
		}
	})
}

// Pipelining is never refused: a client may write 24 MiB before it reads a byte.
func TestAClientMayWriteWithoutReading(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		c := s.dial()
		const frames, size = 400, 60 << 10
		done := make(chan error, 1)
		go func() {
			body := strings.Repeat("b", size)
			for i := range frames {
				if _, err := c.Write(packet{1, 1, fmt.Sprintf("%08d", i) + body}.bytes()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		select {
		case <-done:
			t.Log("the kernel's buffers took it all")
		case <-time.After(time.Second):
		}
		s.dial().echo("others are served meanwhile")
		for i := range frames {
			if f := c.recv(); f.main != 1 || f.sub != 1 || len(f.body) != 8+size || f.body[:8] != fmt.Sprintf("%08d", i) {
				t.Fatalf("frame %d: got %d/%d %.8q, %d bytes", i, f.main, f.sub, f.body, len(f.body))
			}
		}
	})
}

// As above, where the requests wait and not the answers.
func TestRequestsMayWaitForASlowHandler(t *testing.T) {
	t.Parallel()
	s := serve(t, "--max-pending", "64KiB")
	c := s.dial()
	const frames = 40
	go func() {
		pad := strings.Repeat(" ", 30<<10)
		for range frames {
			c.Write(packet{1, 4, `{"ms":5}` + pad}.bytes())
		}
	}()
	for range frames {
		c.want(1, 4, `{"slept_ms":5}`)
	}
	c.echo("done")
}

func TestAFINIsAnsweredToTheEnd(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		for _, ms := range []int{1, 150} {
			c := s.dial()
			c.write(append(packet{1, 4, fmt.Sprintf(`{"ms":%d}`, ms)}.bytes(), packet{1, 1, "last"}.bytes()...))
			c.finish()
			c.want(1, 4, fmt.Sprintf(`{"slept_ms":%d}`, ms))
			c.want(1, 1, "last")
			c.wantEnd()
		}
		c := s.dial()
		const frames = 2000
		var b []byte
		for i := range frames {
			b = append(b, packet{1, 1, fmt.Sprintf("%0200d", i)}.bytes()...)
		}
		go func() {
			c.Write(b)
			c.Conn.(*net.TCPConn).CloseWrite()
		}()
		for i := range frames {
			c.want(1, 1, fmt.Sprintf("%0200d", i))
		}
		c.wantEnd()
		c = s.dial()
		c.finish()
		c.wantEnd()
	})
}

// Half a frame and a FIN: nothing to answer, and the server closes.
func TestAFINInsideAFrameCloses(t *testing.T) {
	c := serve(t).dial()
	c.write(packet{1, 1, "whole"}.bytes())
	c.write(packet{1, 1, "cut off"}.bytes()[:10])
	c.finish()
	c.want(1, 1, "whole")
	for {
		f, err := c.next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil || f.main != 0 {
			t.Fatalf("got %v, %v, want the end", f, err)
		}
	}
}

func TestTimeoutsSayErrorFiveAndClose(t *testing.T) {
	t.Parallel()
	const frame, idle = 1500 * time.Millisecond, 2 * time.Second // a machine that stands still for a while keeps them
	s := serve(t, "--first-frame-timeout=1500ms", "--frame-timeout=1500ms", "--idle-timeout=2s")
	closed := func(c *peer, from time.Time, want time.Duration) {
		t.Helper()
		c.wantError(5, 0, 0)
		c.wantEnd()
		if took := time.Since(from); took < want-50*time.Millisecond || took > want+20*time.Second {
			t.Errorf("closed after %v, want %v", took, want)
		}
	}
	var all sync.WaitGroup
	all.Go(func() { // nothing at all
		from := time.Now()
		closed(dialAddr(t, s.ready[0]), from, frame)
	})
	all.Go(func() { // the first frame never whole, one byte at a time
		from := time.Now()
		c := dialAddr(t, s.ready[0])
		stop := make(chan struct{})
		defer close(stop)
		go drip(c, 50*time.Millisecond, stop)
		closed(c, from, frame)
	})
	all.Go(func() { // a later frame never whole
		c := dialAddr(t, s.ready[0])
		from := time.Now()
		c.echo("first")
		stop := make(chan struct{})
		defer close(stop)
		go drip(c, 50*time.Millisecond, stop)
		closed(c, from, frame)
	})
	all.Go(func() { // silence
		c := dialAddr(t, s.ready[0])
		from := time.Now()
		c.echo("first")
		closed(c, from, idle)
	})
	all.Go(func() { // the clock stands still while an answer is owed
		c := dialAddr(t, s.ready[0])
		from := time.Now()
		c.send(1, 4, `{"ms":3000}`)
		c.want(1, 4, `{"slept_ms":3000}`)
		closed(c, from, 3*time.Second+idle-time.Second) // they stand still by ticks, which a machine that stands still makes long
	})
	all.Go(func() { // PONGs count as life
		c := dialAddr(t, s.ready[0])
		c.echo("first")
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			c.send(0, 2, "")
		}
		c.echo("still here")
	})
	all.Wait()
}

// drip writes a frame that is never whole.
func drip(c *peer, every time.Duration, stop <-chan struct{}) {
	b := packet{1, 1, strings.Repeat("x", 1000)}.bytes()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range b {
		select {
		case <-stop:
			return
		case <-tick.C:
			if _, err := c.Write(b[i : i+1]); err != nil {
				return
			}
		}
	}
}

func TestAListenerLivesWithTheFirstFrameTimeoutOff(t *testing.T) {
	s := serve(t, "--first-frame-timeout=0")
	quiet := s.dial()
	time.Sleep(300 * time.Millisecond)
	c := s.dial()
	c.send(1, 2, "news")
	c.want(1, 2, "news")
	quiet.want(1, 2, "news")
}

func TestHeartbeatAsksTheSilent(t *testing.T) {
	t.Parallel()
	s := serve(t, "--heartbeat=500ms", "--idle-timeout=3s")
	c := s.dial()
	c.echoAmongPings("first")
	for range 8 { // past the idle timeout: a PONG is life
		f := c.recv()
		if f.main != 0 || f.sub != 1 || len(f.body) > 64 {
			t.Fatalf("got %v, want a PING", f)
		}
		c.send(0, 2, f.body)
	}
	c.echoAmongPings("still here")
}

// The server's own PINGs are no life of the client's.
func TestHeartbeatFindsOutWhoIsNotThere(t *testing.T) {
	t.Parallel()
	s := serve(t, "--heartbeat=100ms", "--idle-timeout=2s")
	c := s.dial()
	from := time.Now()
	c.echoAmongPings("first")
	for time.Since(from) < 20*time.Second {
		f := c.recv()
		if code, _, ok := parseErrorFrame(f); ok && code == 5 {
			c.wantEnd()
			if took := time.Since(from); took < 1950*time.Millisecond {
				t.Errorf("closed after %v, want 2 s", took)
			}
			return
		}
		if f.main != 0 || f.sub != 1 {
			t.Fatalf("got %v, want a PING or ERROR 5", f)
		}
	}
	t.Error("not closed after 20 s without an answer to a PING")
}

func TestConnectionsOverTheLimitAreToldSo(t *testing.T) {
	for _, flag := range []string{"--max-conns=3", "--max-conns-per-ip=3"} {
		t.Run(flag, func(t *testing.T) {
			s := serve(t, flag)
			var in []*peer
			for range 3 {
				c := s.dial()
				c.echo("in")
				in = append(in, c)
			}
			for range 5 {
				c := s.dial()
				c.wantError(12, 0, 0)
				c.wantEnd()
			}
			in[0].Close()
			deadline := time.Now().Add(patience)
			for { // its place is free once the server has seen it go
				c := s.dial()
				c.send(1, 1, "again")
				if f, err := c.next(); err == nil && f.body == "again" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("a place that was left is not given out again")
				}
				time.Sleep(10 * time.Millisecond)
			}
			in[1].echo("undisturbed")
		})
	}
}

func TestWithoutSystemFramesARefusedRequestCloses(t *testing.T) {
	s := serve(t, "--system-frames=false")
	for _, req := range []packet{{9, 9, ""}, {1, 4, "{}"}, {0, 1, "PING"}} {
		c := s.dial()
		c.echo("before")
		c.write(append(req.bytes(), packet{1, 1, "behind"}.bytes()...))
		c.wantEnd()
	}
	c := s.dial()
	c.write([]byte{0, 0, 0, 0})
	c.wantEnd()
	quiet := s.dial()
	quiet.echo("hello")
	s.signal(syscall.SIGTERM)
	quiet.wantEnd() // no GOAWAY
	if code := s.wait(); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

// Every layout that the contract lists, built by hand here.
func TestOtherLayouts(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	for _, c := range []struct {
		name  string
		flags []string
		frame func(main, sub uint16, body string) []byte
	}{
		{"little-endian", []string{"--byte-order=little"}, func(m, s uint16, body string) []byte {
			return append(le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, uint32(4+len(body))), m), s), body...)
		}},
		{"length of 2 bytes", []string{"--length-width=2"}, func(m, s uint16, body string) []byte {
			return append(be.AppendUint16(be.AppendUint16(be.AppendUint16(nil, uint16(4+len(body))), m), s), body...)
		}},
		{"length counts itself", []string{"--length-adjust=-4"}, func(m, s uint16, body string) []byte {
			return append(be.AppendUint16(be.AppendUint16(be.AppendUint32(nil, uint32(8+len(body))), m), s), body...)
		}},
		{"length counts the body only", []string{"--length-adjust=4"}, func(m, s uint16, body string) []byte {
			return append(be.AppendUint16(be.AppendUint16(be.AppendUint32(nil, uint32(len(body))), m), s), body...)
		}},
		{"prefix", []string{"--prefix=cafe01"}, func(m, s uint16, body string) []byte {
			return append([]byte{0xca, 0xfe, 0x01}, packet{m, s, body}.bytes()...)
		}},
		{"bytes", []string{"--command=main-sub-8"}, func(m, s uint16, body string) []byte {
			return append(append(be.AppendUint32(nil, uint32(2+len(body))), byte(m), byte(s)), body...)
		}},
		{"handle", []string{"--command=handle-32", "--byte-order=little"}, func(m, s uint16, body string) []byte {
			return append(le.AppendUint32(le.AppendUint32(nil, uint32(4+len(body))), uint32(m)<<16|uint32(s)), body...)
		}},
		{"sequence", []string{"--seq"}, func(m, s uint16, body string) []byte {
			return append(be.AppendUint32(be.AppendUint16(be.AppendUint16(be.AppendUint32(nil, uint32(8+len(body))), m), s), 0xdeadbeef), body...)
		}},
		{"all of it", []string{"--prefix=4d", "--length-width=2", "--byte-order=little", "--command=main-sub-8", "--seq", "--length-adjust=-2"}, func(m, s uint16, body string) []byte {
			b := le.AppendUint16([]byte{0x4d}, uint16(2+6+len(body)))
			return append(le.AppendUint32(append(b, byte(m), byte(s)), 0xdeadbeef), body...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.flags...)
			p := s.dial()
			for _, body := range []string{"", "hello", strings.Repeat("z", 3000)} {
				frame := c.frame(1, 1, body)
				p.write(frame)
				got := make([]byte, len(frame))
				if _, err := io.ReadFull(p.r, got); err != nil || string(got) != string(frame) {
					t.Fatalf("got %.100x, %v\nwant %.100x", got, err, frame)
				}
			}
			about := "\x00\x02\x00\x09\x00\x09"
			if strings.Contains(c.name, "all") || strings.Contains(strings.Join(c.flags, " "), "little") {
				about = "\x02\x00\x09\x00\x09\x00"
			}
			p.write(c.frame(9, 9, "?"))
			want := c.frame(0, 3, about)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(p.r, got); err != nil {
				t.Fatal(err)
			}
			// The text's length is the server's own: compare what is behind the length.
			if got, want := got[len(want)-len(about):], want[len(want)-len(about):]; string(got) != string(want) {
				t.Errorf("ERROR about 9/9 starts with % x, want % x", got, want)
			}
			out, stderr, code := millrace(t, nil, "", append(append([]string{"call"}, c.flags...), s.ready[0], "1/1", "by hand")...)
			if out != "1/1 by hand\n" || code != 0 {
				t.Errorf("call: exit %d, %q, %q", code, out, stderr)
			}
		})
	}
	t.Run("a wrong prefix", func(t *testing.T) {
		c := serve(t, "--prefix=cafe").dial()
		c.write([]byte{0xca, 0xff})
		var head [2]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil || head != [2]byte{0xca, 0xfe} {
			t.Fatalf("got %x, %v, want the ERROR's prefix", head, err)
		}
		c.wantError(1, 0, 0)
		c.wantEnd()
	})
}

// Part 3, rows 1/1 to 1/9.

func TestBroadcastReachesEverySessionAndTheSender(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		var cs []*peer
		for range 20 {
			c := s.dial()
			c.echo("in")
			cs = append(cs, c)
		}
		for round := range 5 {
			text := fmt.Sprint("round ", round)
			cs[round].send(1, 2, text)
			for _, c := range cs {
				c.want(1, 2, text)
			}
		}
		cs[0].send(1, 2, "")
		for _, c := range cs {
			c.want(1, 2, "")
		}
	})
}

// What one session sends leaves in its order, broadcasts among answers too.
func TestABroadcastKeepsItsPlaceAmongTheSendersAnswers(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		other := s.dial()
		other.echo("in")
		c := s.dial()
		var b []byte
		for i := range 200 {
			b = append(b, packet{1, uint16(1 + i%2), fmt.Sprint(i)}.bytes()...)
		}
		c.write(b)
		for i := range 200 {
			c.want(1, uint16(1+i%2), fmt.Sprint(i))
		}
		for i := 1; i < 200; i += 2 {
			other.want(1, 2, fmt.Sprint(i))
		}
	})
}

func TestWhoamiTellsAPeerWhatItIs(t *testing.T) {
	s := serve(t)
	a, b := s.dial(), s.dial()
	before := time.Now().Add(-time.Minute)
	ma, mb := a.object(1, 3, ""), b.object(1, 3, "a body is ignored")
	if ma["addr"] != a.LocalAddr().String() || mb["addr"] != b.LocalAddr().String() {
		t.Errorf("addresses %v and %v, want %v and %v", ma["addr"], mb["addr"], a.LocalAddr(), b.LocalAddr())
	}
	if ma["index"] == mb["index"] {
		t.Errorf("two sessions with index %v", ma["index"])
	}
	for _, m := range []map[string]any{ma, mb} {
		at, err := time.Parse(time.RFC3339Nano, m["connected_at"].(string))
		if err != nil || at.Before(before) || at.After(time.Now().Add(time.Minute)) {
			t.Errorf("connected_at %v: %v", m["connected_at"], err)
		}
		for _, k := range []string{"index", "round"} {
			if n, err := m[k].(json.Number).Int64(); err != nil || n < 0 || n > math.MaxUint32 {
				t.Errorf("%s %v is no u32", k, m[k])
			}
		}
		if m["round"] == json.Number("0") {
			t.Error("round 0")
		}
		if len(m) != 4 {
			t.Errorf("%v has other fields too", m)
		}
	}
}

func TestSleepHoldsBackItsOwnSessionOnly(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		var sleepers []*peer
		for range 64 {
			c := s.dial()
			c.send(1, 4, `{"ms":4000}`)
			c.send(1, 1, "behind")
			sleepers = append(sleepers, c)
		}
		c := s.dial()
		time.Sleep(50 * time.Millisecond)
		for range 20 {
			from := time.Now()
			c.echo("awake")
			if took := time.Since(from); took > 2*time.Second { // it would be 4 s behind them
				t.Errorf("an echo beside 64 sleeping handlers took %v", took)
			}
		}
		for _, c := range sleepers {
			c.want(1, 4, `{"slept_ms":4000}`)
			c.want(1, 1, "behind")
		}
	})
}

func TestGroups(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		a, b, c := s.dial(), s.dial(), s.dial()
		me := a.object(1, 3, "")
		members := func(p *peer, sub uint16, group string, want string) {
			t.Helper()
			p.send(1, sub, `{"group":"`+group+`"}`)
			p.want(1, sub, `{"members":`+want+`}`)
		}
		members(a, 5, "g", "1")
		members(a, 5, "g", "1") // joining twice counts once
		members(b, 5, "g", "2")
		members(b, 5, "h", "1")
		members(c, 6, "g", "2") // was none
		a.send(1, 7, `{"group":"g","data":"<é \"quoted\" & \u0000>"}`)
		var sent, pushed int
		for range 2 { // in either order
			switch f := a.recv(); f.sub {
			case 7:
				sent++
				if f.body != `{"sent":2}` {
					t.Errorf("sender got %v", f)
				}
			case 8:
				pushed++
			default:
				t.Fatalf("got %v", f)
			}
		}
		if sent != 1 || pushed != 1 {
			t.Errorf("%d answers and %d pushes, want one each", sent, pushed)
		}
		m := b.parse(b.recv())
		if m["group"] != "g" || m["data"] != "<é \"quoted\" & \x00>" || m["from"] != me["index"] || m["round"] != me["round"] || len(m) != 4 {
			t.Errorf("pushed %v; the sender is %v", m, me)
		}
		if got := c.object(1, 7, `{"group":"h","data":"from outside"}`); got["sent"] != json.Number("1") {
			t.Errorf("a sender who is no member got %v", got)
		}
		if m := b.parse(b.recv()); m["data"] != "from outside" {
			t.Errorf("got %v", m)
		}
		if got := c.object(1, 7, `{"group":"empty","data":"x"}`); got["sent"] != json.Number("0") {
			t.Errorf("an empty group: %v", got)
		}
		members(b, 6, "g", "1")
		a.Close() // leaving is automatic
		deadline := time.Now().Add(patience)
		for c.object(1, 7, `{"group":"g","data":"x"}`)["sent"] != json.Number("0") {
			if time.Now().After(deadline) {
				t.Fatal("a session that has gone is still a member")
			}
		}
		b.echo("quiet")
		c.echo("quiet")
	})
}

func TestAFINEndsMembership(t *testing.T) {
	s := serve(t)
	a, b := s.dial(), s.dial()
	a.object(1, 5, `{"group":"g"}`)
	b.object(1, 5, `{"group":"g"}`)
	a.finish()
	a.wantEnd()
	if got := b.object(1, 5, `{"group":"g"}`); got["members"] != json.Number("1") {
		t.Errorf("after the other's end: %v", got)
	}
}

// Groups, locks and timers end at the FIN, also while a request before it still runs.
func TestAFINEndsWhatASleepingSessionHolds(t *testing.T) {
	s := serve(t)
	a, b := s.dial(), s.dial()
	a.object(1, 5, `{"group":"g"}`)
	a.object(2, 1, `{"id":1,"ms":400,"repeat":0}`)
	if got := a.object(5, 4, `{"key":"k","ttl_ms":600000,"wait_ms":0}`); got["locked"] != true {
		t.Fatalf("lock: %v", got)
	}
	began := time.Now()
	a.send(1, 4, `{"ms":3000}`)
	a.finish()
	if got := b.object(5, 4, `{"key":"k","ttl_ms":600000,"wait_ms":2500}`); got["locked"] != true {
		t.Errorf("%v after the FIN: %v", time.Since(began), got)
	}
	if got := b.object(1, 5, `{"group":"g"}`); got["members"] != json.Number("1") {
		t.Errorf("%v after the FIN: %v", time.Since(began), got)
	}
	a.want(1, 4, `{"slept_ms":3000}`)
	a.wantEnd()
}

func TestGroupLimits(t *testing.T) {
	s := serve(t, "--max-groups=2", "--max-frame=1KiB")
	c := s.dial()
	c.object(1, 5, `{"group":"1"}`)
	c.object(1, 5, `{"group":"2"}`)
	c.send(1, 5, `{"group":"3"}`)
	c.wantError(12, 1, 5)
	c.object(1, 5, `{"group":"2"}`) // is one already
	c.object(1, 6, `{"group":"1"}`)
	c.object(1, 5, `{"group":"3"}`)
	c.send(1, 5, `{"group":"`+strings.Repeat("n", 257)+`"}`)
	c.wantError(12, 1, 5)
	// Fits as a request and, with its sender added, no frame.
	c.send(1, 7, `{"group":"3","data":"`+strings.Repeat("d", 990)+`"}`)
	c.wantError(12, 1, 7)
	c.echo("still open")
}

func TestAPanicClosesItsSessionOnly(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode, "--unsafe-demo")
		other := s.dial()
		other.echo("in")
		for range 5 {
			c := s.dial()
			c.echo("before")
			c.write(append(packet{1, 9, ""}.bytes(), packet{1, 1, "never answered"}.bytes()...))
			c.wantError(6, 1, 9)
			c.wantEnd()
		}
		other.echo("lives")
		s.stop()
		if n := strings.Count(s.log(), "a panic on purpose"); n < 1 || n > 2 {
			t.Errorf("the panic was logged %d times, want once per place", n)
		}
	})
}

func TestBodiesThatAreNoGoodAreError3(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		c := serve(t, mode).dial()
		deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
		for sub, bodies := range map[uint16][]string{
			4: {``, ` `, `{}`, `[]`, `null`, `5`, `{"ms":null}`, `{"ms":true}`, `{"ms":"1"}`, `{"ms":1.5}`, `{"ms":0}`, `{"ms":-1}`, `{"ms":4294967296}`,
				`{"ms":99999999999999999999}`, `{"MS":1}`, `{"ms":1}x`, `{"ms":1}{}`, `{"ms":1,}`, `{"ms":1`, `{"ms":1,"x":"` + "\xff" + `"}`, `{"ms":1,"x":` + deep + `}`, `{"ms":5,"ms":0}`},
			5: {``, `{}`, `{"group":null}`, `{"group":1}`, `{"Group":"g"}`, `{"group":["g"]}`, "{\"group\":\"\xc3\"}"},
			6: {``, `{}`, `{"group":true}`},
			7: {``, `{"group":"g"}`, `{"data":"d"}`, `{"group":"g","data":null}`, `{"group":"g","data":1}`, `{"group":"g","data":{}}`},
		} {
			for _, body := range bodies {
				c.send(1, sub, body)
				c.wantError(3, 1, sub)
			}
		}
		c.send(1, 4, `{"ms":0,"x":{"deep":[[1]]},"m\u0073":1}`)
		c.want(1, 4, `{"slept_ms":1}`)
	})
}

// Clients that ask for long sleeps and leave can't use up the workers.
func TestAClientThatLeavesFreesItsSleepingHandler(t *testing.T) {
	s := serve(t, "--workers=1", "--spare-workers=2")
	for range 9 {
		c := s.dial()
		c.send(1, 4, `{"ms":600000}`)
		time.Sleep(10 * time.Millisecond)
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	c := s.dial()
	c.send(1, 4, `{"ms":1}`)
	c.want(1, 4, `{"slept_ms":1}`)
}
