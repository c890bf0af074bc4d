//go:build linux

package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

// lieAt answers honestly up to frame n of a connection and then as lie does.
func lieAt(n int, lie reply) reply {
	return func(s *fakeServer, c *fakeConn, handle uint32, body []byte) {
		if c.n == n {
			lie(s, c, handle, body)
			return
		}
		honest(s, c, handle, body)
	}
}

func TestVerificationCatchesLies(t *testing.T) {
	corrupt := func(at int) reply {
		return func(_ *fakeServer, c *fakeConn, h uint32, b []byte) {
			b = bytes.Clone(b)
			b[at] ^= 1
			c.send(h, b)
		}
	}
	cases := []struct {
		name, spec, want string
		answer           reply
	}{
		{"last byte changed", "echo/3x4", "corrupt", lieAt(9, corrupt(63))},
		{"middle byte changed", "echo/3x4", "corrupt", lieAt(9, corrupt(30))},
		{"stamp changed", "echo/3x4", "expected reply 9", lieAt(9, corrupt(7))},
		{"small body changed", "echo/3x4/4", "corrupt", lieAt(9, corrupt(3))},
		{"one reply missing", "echo/2x4", "expected reply 5", lieAt(5, func(*fakeServer, *fakeConn, uint32, []byte) {})},
		{"one reply twice", "echo/2x4", "got", lieAt(5, func(_ *fakeServer, c *fakeConn, h uint32, b []byte) {
			c.send(h, b)
			c.send(h, b)
		})},
		{"two replies swapped", "echo/2x4", "expected reply 5", swapped()},
		{"another connection's reply", "echo/2x1", "got", func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
			s.mu.Lock()
			other := s.conns[0]
			if other == c {
				other = s.conns[1]
			}
			s.mu.Unlock()
			other.send(h, b)
		}},
		{"a byte too many", "echo/2x1", "has 65 bytes, want 64", lieAt(3, func(_ *fakeServer, c *fakeConn, h uint32, b []byte) { c.send(h, append(b, 0)) })},
		{"another handle", "echo/2x1", "unexpected frame 1/9", lieAt(3, func(_ *fakeServer, c *fakeConn, _ uint32, b []byte) { c.send(1<<16|9, b) })},
		{"an ERROR", "echo/2x1", "ERROR 4 overloaded about 1/1: busy", lieAt(3, func(_ *fakeServer, c *fakeConn, h uint32, _ []byte) {
			c.send(handleError, append(binary.BigEndian.AppendUint32([]byte{0, 4}, h), "busy"...))
		})},
		{"an end", "echo/2x2", "requests outstanding", lieAt(3, func(_ *fakeServer, c *fakeConn, _ uint32, _ []byte) { c.Close() })},
		{"a length of nonsense", "echo/2x1", "a frame of length", lieAt(3, func(_ *fakeServer, c *fakeConn, _ uint32, _ []byte) { _, _ = c.Write([]byte("HTTP/1.1 400")) })},
		{"a reply to nothing", "echo/1x1", "", lieAt(3, func(_ *fakeServer, c *fakeConn, h uint32, b []byte) {
			c.send(h, b)
			c.send(h, b)
		})},
		{"a broadcast that one misses", "broadcast/5x4", "receiver", func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
			s.mu.Lock()
			last := s.conns[len(s.conns)-1]
			if last == c { // connections come in any order; the sender's is not to go
				last = s.conns[0]
			}
			s.mu.Unlock()
			if c.n == 4 {
				last.Close()
			}
			honest(s, c, h, b)
		}},
		{"a broadcast that one gets twice", "broadcast/5x1", "receiver", lieAt(4, func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
			s.broadcast(b)
			c.send(h, b)
		})},
		{"a broadcast changed", "broadcast/5x2", "corrupt", lieAt(4, func(s *fakeServer, _ *fakeConn, _ uint32, b []byte) {
			b[40] ^= 1
			s.broadcast(b)
		})},
		{"churn with a wrong reply", "churn/4", "corrupt", corrupt(20)},
		{"open loop with a wrong reply", "echo/2@2000", "corrupt", lieAt(9, corrupt(30))},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := measureFake(t, startFake(t, c.answer).target(), c.spec)
			if r.Error == "" || !strings.Contains(r.Error, c.want) {
				t.Errorf("got error %q (skipped %q, %d messages), want one with %q", r.Error, r.Skipped, r.Messages, c.want)
			}
		})
	}
}

// swapped answers the sixth and the seventh request in the wrong order.
func swapped() reply {
	held := map[*fakeConn][]byte{}
	return func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case c.n == 5:
			held[c] = b
		case held[c] != nil:
			c.send(h, b)
			c.send(h, held[c])
			delete(held, c)
		default:
			c.send(h, b)
		}
	}
}

func TestHonestServersAreMeasured(t *testing.T) {
	for _, spec := range []string{"echo/1x1", "echo/7x5/1000", "echo/3x2/0", "echo/3x2/5", "echo/4@3000", "broadcast/6x3", "churn/5", "mixed/41x2/5ms"} {
		t.Run(spec, func(t *testing.T) {
			r := measureFake(t, startFake(t, honest).target(), spec)
			if r.Error != "" || r.Skipped != "" || r.Messages == 0 || r.Rate <= 0 || r.Latency == nil || r.CPU == nil || r.Memory == nil {
				t.Fatalf("got %+v", r)
			}
			p50, _ := r.Latency.At(50)
			if p50 <= 0 || p50 > r.Latency.Max || r.Latency.Min > p50 {
				t.Errorf("latencies are out of order: %+v", r.Latency)
			}
			if r.Verified < r.Messages {
				t.Errorf("verified %d of %d messages", r.Verified, r.Messages)
			}
		})
	}
}

func TestOpenLoopKeepsItsRateAndCountsFromTheSchedule(t *testing.T) {
	for tries := 3; ; tries-- { // the machine may stall too
		problem := openLoop(t)
		if problem == "" {
			return
		}
		if tries == 0 {
			t.Fatal(problem)
		}
		t.Log(problem)
	}
}

// openLoop measures a server that stalls once, and says what is wrong with the figures.
func openLoop(t *testing.T) string {
	const pause = 60 * time.Millisecond
	stalled := false
	srv := startFake(t, func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		if c.n == 80 && !stalled { // one connection: one goroutine comes here
			stalled = true
			time.Sleep(pause)
		}
		honest(s, c, h, b)
	})
	r := measureFake(t, srv.target(), "echo/1@1000")
	if r.Error != "" {
		return r.Error
	}
	if r.Rate < 600 || r.Rate > 1500 {
		return fmt.Sprintf("got %.0f messages a second, want 1000", r.Rate)
	}
	// Some 60 of 150 requests were due while the server slept; a closed loop would show one slow one.
	if p75, _ := r.Latency.At(75); p75 < 5000 {
		return fmt.Sprintf("p75 is %.0f µs: the requests that were due during the stall of %v are not in it", p75, pause)
	}
	return ""
}

func TestALateGeneratorStillCountsFromTheSchedule(t *testing.T) {
	const rate = 1000.0
	d := newEchoDriver(genSpec{Workload: Workload{Kind: Echo, Conns: 1, Body: 64, Rate: rate}, Share: 1})
	l := &loop{phase: measuring}
	c := &conn{fd: -1}
	d.conns = []*conn{c}
	now := int64(50 * time.Millisecond) // the first request was due 49 ms ago
	for d.issued = 0; d.issued < 3; d.issued++ {
		d.issue(l, now)
	}
	for i := range int64(3) {
		if at, n := c.sent.pop(1); n != 1 || at != (i+1)*1e6 {
			t.Errorf("request %d counts from %d ns, want %d", i, at, (i+1)*1e6)
		}
	}
	if p := d.lag.hist.ValueAtQuantile(50); p < 45e6 {
		t.Errorf("the generator says that it was %d ns late, want some 48 ms", p)
	}
}

func TestIdleMemoryNeedsEveryConnection(t *testing.T) {
	r := measureFake(t, startFake(t, honest).target(), "idle/200")
	// This process holds the server's side only: each connection is one descriptor of it.
	if r.Error != "" || r.Memory == nil || r.Verified != 200 {
		t.Fatalf("got %+v", r)
	}
	if r.Memory.PerEchoed < r.Memory.PerIdle-4096 {
		t.Errorf("memory shrank from %.0f to %.0f a connection", r.Memory.PerIdle, r.Memory.PerEchoed)
	}
}

func TestServicesAreSkippedWithAReason(t *testing.T) {
	silent := func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		if h == handleEcho {
			honest(s, c, h, b)
		}
	}
	closing := func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		if h != handleEcho {
			c.Close()
			return
		}
		honest(s, c, h, b)
	}
	echoing := func(_ *fakeServer, c *fakeConn, h uint32, b []byte) { c.send(h, b) }
	cases := []struct {
		name, spec, want string
		answer           reply
	}{
		{"an ERROR", "services/3x2", "ERROR 2 unknown_handle about 4/3", honest},
		{"an ERROR to a timer", "timers/3x2", "ERROR 2 unknown_handle about 2/1", honest},
		{"an ERROR to a join", "groups/4x1/g2", "ERROR 2 unknown_handle about 1/5", honest},
		{"silence", "services/2", "does not answer 4/3", silent},
		{"an end", "database/2", "closed the connection when it was sent 3/1", closing},
		{"an end to a timer", "timers/2", "closed the connection when it was sent 2/1", closing},
		{"an end to a broadcast", "broadcast/3", "closed the connection when it was sent 1/2", closing},
		{"an echo of the request", "services/2", "answers 4/3 with", echoing},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := measureFake(t, startFake(t, c.answer).target(), c.spec)
			if !strings.Contains(r.Skipped, c.want) || r.Error != "" {
				t.Errorf("got skipped %q, error %q, want skipped with %q", r.Skipped, r.Error, c.want)
			}
		})
	}
}

// Where nobody listens a case of every kind fails, and says why; it is not skipped as something
// that the target doesn't serve.
func TestNobodyListens(t *testing.T) {
	for _, spec := range []string{"echo/2", "services/2", "database/2", "timers/2", "churn/2", "broadcast/3", "groups/4x1/g2"} {
		if r := measureFake(t, Target{Name: "x", Addr: "127.0.0.1:1"}, spec); r.Skipped != "" || !strings.Contains(r.Error, "connection refused") || strings.Contains(r.Error, "panic") {
			t.Errorf("%s: got skipped %q, error %q, want connection refused", spec, r.Skipped, r.Error)
		}
	}
}

func TestUnreachableTargetsFail(t *testing.T) {
	for name, target := range map[string]Target{
		"nobody listens":   {Name: "x", Addr: "127.0.0.1:1"},
		"no such program":  {Name: "x", Command: []string{"/nonexistent/program"}},
		"ends at once":     {Name: "x", Command: []string{"/bin/sh", "-c", "echo sorry >&2; exit 3"}},
		"ready without":    {Name: "x", Command: []string{"/bin/sh", "-c", "echo ready; exit 0"}},
		"ready nonsense":   {Name: "x", Command: []string{"/bin/sh", "-c", "echo ready nonsense; sleep 20"}},
		"ready and silent": {Name: "x", Command: []string{"/bin/sh", "-c", "echo ready 127.0.0.1:1; sleep 20"}},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			r := measureFake(t, target, "echo/2")
			if r.Error == "" {
				t.Errorf("got %+v, want an error", r)
			}
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("it took %v: what the program had started was waited for", took)
			}
			if name == "ends at once" && !strings.Contains(r.Error, "sorry") {
				t.Errorf("the error %q does not say what the program said", r.Error)
			}
		})
	}
}
