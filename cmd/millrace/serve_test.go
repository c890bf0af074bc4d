package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestReadyIsTheOnlyLineOnStdout(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s.sock")
	s := serve(t, "--addr", "tcp://127.0.0.1:0", "--addr", "unix://"+sock, "--addr", "tcp://127.0.0.1:0", "--log-format=json", "--log-level=debug", "--unsafe-demo")
	if len(s.ready) != 3 || !strings.HasPrefix(s.ready[0], "tcp://127.0.0.1:") || s.ready[1] != "unix://"+sock || s.ready[0] == s.ready[2] {
		t.Fatalf("ready %v, want the three addresses in their order", s.ready)
	}
	for _, addr := range s.ready {
		c := dialAddr(t, addr)
		c.echo(addr)
		c.send(1, 9, "")
		c.wantError(6, 1, 9)
	}
	s.stop()
	if s.rest.Len() > 0 {
		t.Errorf("more on stdout: %q", s.rest.String())
	}
	for _, line := range strings.Split(strings.TrimSpace(s.log()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("a log line that is no JSON: %s", line)
		}
	}
	if _, err := os.Lstat(sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file after the end: %v", err)
	}
}

func TestIPv6(t *testing.T) {
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here:", err)
	} else {
		ln.Close()
	}
	for _, addr := range []string{"tcp://[::1]:0", "tcp6://[::1]:0"} {
		s := serve(t, "--addr", addr)
		c := s.dial()
		if got := c.object(1, 3, "")["addr"]; got != c.LocalAddr().String() {
			t.Errorf("%s: the server sees %v, want %v", addr, got, c.LocalAddr())
		}
		if out, stderr, code := millrace(t, nil, "", "call", s.ready[0], "1/1", "six"); out != "1/1 six\n" || code != 0 {
			t.Errorf("call: exit %d, %q %q", code, out, stderr)
		}
		s.stop()
	}
}

func TestASecondStartAfterKill9(t *testing.T) {
	sock := "unix://" + filepath.Join(t.TempDir(), "s.sock")
	s := serve(t, "--addr", "tcp://127.0.0.1:0", "--addr", sock)
	for range 5 { // the server closes first: its side goes to TIME_WAIT
		c := s.dial()
		c.write([]byte{0, 0, 0, 0})
		c.wantError(1, 0, 0)
		c.wantEnd()
		c.Close()
	}
	live := s.dial()
	live.echo("connected")
	s.signal(syscall.SIGKILL)
	<-s.ended
	again := serve(t, "--addr", s.ready[0], "--addr", sock)
	again.dial().echo("back")
	dialAddr(t, sock).echo("back")
	again.stop()
}

func TestAnIdleServerDrainsAtOnceAndKindly(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		for i := range 6 {
			sig := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}[i%2]
			s := serve(t, mode, "--drain-timeout=20s")
			c, silent := s.dial(), s.dial()
			c.echo("in")
			for { // both are in once a broadcast reaches both
				c.send(1, 2, "all")
				c.want(1, 2, "all")
				silent.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if _, err := silent.r.Peek(1); err == nil {
					break
				}
			}
			silent.SetReadDeadline(time.Now().Add(patience))
			time.Sleep(time.Duration(i) * 40 * time.Millisecond) // another phase of the server's ticks
			at := time.Now()
			s.signal(sig)
			f := c.recv()
			if f.main != 0 || f.sub != 4 || len(f.body) != 4 {
				t.Fatalf("got %v, want GOAWAY", f)
			}
			if ms := binary.BigEndian.Uint32([]byte(f.body)); ms < 15000 || ms > 20000 {
				t.Errorf("a grace of %d ms, want what is left of 20 s", ms)
			}
			c.wantEnd()
			if took := time.Since(at); took < 90*time.Millisecond || took > 15*time.Second {
				t.Errorf("FIN %v after the signal, want 100 ms or a little more", took)
			}
			f = silent.recv()
			for f == (packet{1, 2, "all"}) {
				f = silent.recv()
			}
			if f.main != 0 || f.sub != 4 {
				t.Errorf("got %v, want GOAWAY", f)
			}
			silent.wantEnd()
			if code := s.wait(); code != exitOK {
				t.Errorf("exit code %d after %v, want 0", code, sig)
			}
		}
	})
}

// busy has the server begin to sleep for the client, and read what comes behind that.
func (p *peer) busy(ms int, behind ...packet) {
	p.t.Helper()
	b := packet{1, 2, "busy"}.bytes() // told to all, this one too, once it is read
	b = append(b, packet{1, 4, fmt.Sprintf(`{"ms":%d}`, ms)}.bytes()...)
	for _, f := range behind {
		b = append(b, f.bytes()...)
	}
	p.write(b) // one segment: what has read the first frame has them all
	p.want(1, 2, "busy")
}

// What was asked for before and after GOAWAY is answered, or refused by ERROR 7.
func TestADrainAnswersWhatItHasRead(t *testing.T) {
	dispatches(t, func(t *testing.T, mode string) {
		s := serve(t, mode)
		c := s.dial()
		c.busy(800, packet{1, 1, "behind"})
		from := time.Now()
		s.signal(syscall.SIGTERM)
		goAway, served, refused := 0, 0, 0
		late := false
		for {
			f, err := c.next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("ended by %v, want a FIN", err)
				}
				break
			}
			switch code, _, isError := parseErrorFrame(f); {
			case f.main == 0 && f.sub == 4:
				goAway++
				c.send(1, 1, "late")
				late = true
			case isError && code == 7:
				refused++
			case f == packet{1, 4, `{"slept_ms":800}`}, f == packet{1, 1, "behind"}, f == packet{1, 1, "late"}:
				served++
			default:
				t.Errorf("got %v", f)
			}
		}
		least := 2 // the late one may come too late, and after a second so does what waits
		if time.Since(from) > time.Second {
			least = 1
		}
		if goAway != 1 || !late || served < least || served+refused != 3 {
			t.Errorf("%d GOAWAY, %d served, %d refused, want 1 and 3 in all, the first %d served", goAway, served, refused, least)
		}
		if code := s.wait(); code != exitOK {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

func TestANewConnectionWhileDrainingIsTurnedAway(t *testing.T) {
	s := serve(t)
	c := s.dial()
	c.busy(3000)
	s.signal(syscall.SIGTERM)
	if f := c.recv(); f.sub != 4 {
		t.Fatalf("got %v, want GOAWAY", f)
	}
	_, host, _ := strings.Cut(s.ready[0], "://")
	for range 5 {
		conn, err := net.DialTimeout("tcp", host, time.Second)
		if err != nil {
			continue // refused
		}
		conn.SetDeadline(time.Now().Add(patience))
		p := &peer{t: t, Conn: conn, r: newReader(conn)}
		f, err := p.next()
		if code, about, ok := parseErrorFrame(f); err == nil && (!ok || code != 7 || about != 0) {
			t.Errorf("got %v, want ERROR 7 about nothing", f)
		} else if err == nil {
			p.wantEnd()
		} else if !errClosed(err) {
			t.Errorf("neither refused nor told: %v", err)
		}
		conn.Close()
	}
	c.want(1, 4, `{"slept_ms":3000}`)
	c.wantEnd()
	if code := s.wait(); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	for _, c := range []struct {
		second syscall.Signal
		code   int
	}{{syscall.SIGTERM, 143}, {syscall.SIGINT, 130}} {
		s := serve(t)
		p := s.dial()
		p.busy(600_000)
		s.signal(syscall.SIGTERM)
		if f := p.recv(); f.sub != 4 {
			t.Fatalf("got %v, want GOAWAY", f)
		}
		if !s.running() {
			t.Fatal("it ended though a request is being served")
		}
		from := time.Now()
		s.signal(c.second)
		if code := s.wait(); code != c.code {
			t.Errorf("exit code %d, want %d; stderr %s", code, c.code, s.log())
		}
		if took := time.Since(from); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

// Row 22: 200 clients pipeline while the server drains.
func TestADrainUnderLoadLeavesNoRequestInSilence(t *testing.T) {
	s := serve(t, "--drain-timeout=20s")
	var served, refused, sent atomic.Int64
	var all, up sync.WaitGroup
	for i := range 200 {
		up.Add(1)
		all.Go(func() {
			c := dialAddr(t, s.ready[0])
			sentHere, err := pipeline(c, i%4 == 3, up.Done, &served, &refused)
			sent.Add(int64(sentHere))
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	up.Wait()
	s.signal(syscall.SIGTERM)
	all.Wait()
	if code := s.wait(); code != exitOK {
		t.Errorf("exit code %d, want 0; stderr %s", code, s.log())
	}
	t.Logf("%d sent, %d served, %d got ERROR 7", sent.Load(), served.Load(), refused.Load())
}

// pipeline keeps 8 pairs of requests under way until GOAWAY, then stops asking, or with
// rude goes on for another second. Every answer must come in its place, and all of them,
// then a FIN.
func pipeline(c *peer, rude bool, started func(), served, refused *atomic.Int64) (sent int, err error) {
	var mu sync.Mutex  // guards sent and stop
	var stop time.Time // not zero: no more requests from then on
	var wrote time.Time
	room := make(chan struct{}, 8)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for i := 0; ; i++ {
			room <- struct{}{}
			mu.Lock()
			// Who was silent for as long as a drain waits, 100 ms, may meet its FIN.
			if !stop.IsZero() && (time.Now().After(stop) || time.Since(wrote) > 80*time.Millisecond) {
				mu.Unlock()
				return
			}
			b := append(packet{1, 4, `{"ms":20}`}.bytes(), packet{1, 1, fmt.Sprint(i)}.bytes()...)
			if _, err := c.Write(b); err != nil {
				mu.Unlock()
				return
			}
			sent++
			wrote = time.Now()
			mu.Unlock()
		}
	}()
	finish := func() { // lets the writer go
		c.Close()
		for {
			select {
			case <-room:
			case <-writing:
				return
			}
		}
	}
	defer finish()
	for n := 0; ; {
		f, err := c.next()
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !errors.Is(err, io.EOF):
				return sent, fmt.Errorf("ended by %w, want a FIN", err)
			case n != 2*sent:
				return sent, fmt.Errorf("%d answers to %d requests", n, 2*sent)
			}
			return sent, nil
		}
		code, about, isError := parseErrorFrame(f)
		switch {
		case f.main == 0 && f.sub == 4:
			mu.Lock()
			if stop = time.Now(); rude {
				stop = stop.Add(time.Second)
			}
			mu.Unlock()
			continue
		case isError && code == 7 && about == uint32(1<<16|[]int{4, 1}[n%2]):
			refused.Add(1)
		case n%2 == 0 && f == packet{1, 4, `{"slept_ms":20}`}, n%2 == 1 && f == packet{1, 1, fmt.Sprint(n / 2)}:
			served.Add(1)
		default:
			return sent, fmt.Errorf("answer %d is %v", n, f)
		}
		if n++; n == 4 {
			started()
		}
		if n%2 == 0 {
			<-room
		}
	}
}

func TestADeadReaderIsCountedAtTheDeadline(t *testing.T) {
	s := serve(t, "--drain-timeout=1s")
	dead := s.dial()
	dead.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	body := strings.Repeat("d", 60<<10)
	var written atomic.Int64
	go func() {
		for range 400 {
			if _, err := dead.Write(packet{1, 1, body}.bytes()); err != nil {
				return
			}
			written.Add(1)
		}
	}()
	c := s.dial()
	// Until the server takes no more: its buffers are full, and the kernel's.
	for before, since := int64(-1), time.Now(); time.Since(since) < time.Second; time.Sleep(10 * time.Millisecond) {
		if n := written.Load(); n != before {
			before, since = n, time.Now()
		}
	}
	c.echo("alive")
	from := time.Now()
	s.signal(syscall.SIGTERM)
	code := s.wait()
	if took := time.Since(from); took < 900*time.Millisecond || took > 20*time.Second {
		t.Errorf("it took %v, want the drain timeout of 1 s", took)
	}
	last := s.log()
	if code != exitLoss || !regexp.MustCompile(`millrace: drained with losses at --drain-timeout: 1 sessions cut off, .* [1-9][0-9]* bytes not sent`).MatchString(last) {
		t.Errorf("exit code %d, stderr %q; want 3 and how many", code, last)
	}
}

// A client that has been refused a frame may take its time to read the answers in front of
// the ERROR, in a drain too, where they would be a loss.
func TestAnswersInFrontOfABadFrameReachAReaderThatPauses(t *testing.T) {
	for _, drain := range []bool{false, true} {
		s := serve(t, "--linger=200ms", "--socket-send-buffer=64KiB")
		c := s.dial()
		c.Conn.(*net.TCPConn).SetReadBuffer(16 << 10)
		const n = 12
		body := strings.Repeat("a", 60_000)
		c.write([]byte(strings.Repeat(string(packet{1, 1, body}.bytes()), n)))
		c.write(make([]byte, 4)) // a length of 0
		c.want(1, 1, body)
		if drain {
			s.signal(syscall.SIGTERM)
		}
		time.Sleep(1500 * time.Millisecond) // the pause itself
		for range n - 1 {
			c.want(1, 1, body)
		}
		c.wantError(1, 0, 0)
		c.wantEnd()
		c.Close()
		if drain {
			if code := s.wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
		}
	}
}
