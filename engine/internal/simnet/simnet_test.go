package simnet

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"millrace/engine/internal/machine"
	"millrace/engine/internal/netio"
)

// fakeHost takes every connection and keeps what it brings.
type fakeHost struct {
	refuse   bool
	sinks    []*fakeSink
	writable int
	failed   int
}

func (h *fakeHost) NewLoop(netio.Loop) netio.Turner { return h }
func (h *fakeHost) Turn()                           {}
func (h *fakeHost) Open(_ netio.Turner, c netio.Conn, _ int) (netio.Sink, netio.Refusal) {
	if h.refuse {
		return nil, netio.Refusal{Goodbye: []byte("no")}
	}
	s := &fakeSink{c: c}
	h.sinks = append(h.sinks, s)
	return s, netio.Refusal{}
}
func (h *fakeHost) Writable(uint64) { h.writable++ }
func (h *fakeHost) AcceptFailed()   { h.failed++ }
func (h *fakeHost) Failed(error)    {}

type fakeSink struct {
	c     netio.Conn
	got   []byte
	ended bool
	how   netio.End
	keep  bool // Detach at the end
}

func (s *fakeSink) Received(b []byte) { s.got = append(s.got, b...) }
func (s *fakeSink) HungUp(bool)       {}
func (s *fakeSink) Closed(how netio.End) {
	s.ended, s.how = true, how
	if s.keep {
		s.keep = s.c.Detach()
	}
}

// bench is a network that a test drives by hand.
type bench struct {
	*Net
	h     *fakeHost
	rng   *rand.Rand
	files int
}

func newBench(seed uint64) *bench {
	b := &bench{h: &fakeHost{}, rng: rand.New(rand.NewPCG(seed, 1)), files: 1000}
	b.Net = New(machine.Network{Addrs: []string{"tcp://10.0.0.1:7000"}, Loops: 1, ReadBuffer: 1000, MaxRefused: 4, Linger: time.Second}, b.h, Hooks{
		Choose: b.rng.IntN, Chance: func(n int) bool { return b.rng.IntN(n) == 0 }, Wake: func() {}, Note: func(Event) {}, Files: func() int { return b.files },
	})
	_ = b.Start(context.Background())
	return b
}

// run does what can be done for so long.
func (b *bench) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		b.Settle()
		if steps := b.Steps(nil); len(steps) > 0 {
			b.Do(steps[b.rng.IntN(len(steps))])
		}
		time.Sleep(10 * time.Microsecond)
	}
}

func (b *bench) dial() (*Conn, *fakeSink) {
	c := b.Dial(0, Traits{Latency: time.Millisecond, Jitter: time.Millisecond, SendBuffer: 1000, RecvBuffer: 1000})
	b.run(5 * time.Millisecond)
	if len(b.h.sinks) == 0 {
		return c, nil
	}
	return c, b.h.sinks[len(b.h.sinks)-1]
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// Bytes arrive once and in order, both ways, through buffers that hold far less, and a FIN
// behind them.
func TestBytesArriveOnceAndInOrder(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(seed)
			c, s := b.dial()
			up, down := bytesOf(20_000), bytesOf(30_000)
			c.Send(up)
			c.SendFIN()
			var got []byte
			for rest, i := down, 0; len(got) < len(down) && i < 100_000; i++ {
				n, err := 0, error(nil)
				if len(rest) > 0 && !s.ended {
					n, err = s.c.Write(rest)
				}
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
				s.keep = true
				if s.ended && len(rest) > 0 {
					n, _ = s.c.Write(rest)
					rest = rest[n:]
				}
				b.run(100 * time.Microsecond)
				got = append(got, c.Take()...)
			}
			if !bytes.Equal(s.got, up) || !bytes.Equal(got, down) {
				t.Fatalf("seed %d: %d of %d bytes up, %d of %d down, or not those", seed, len(s.got), len(up), len(got), len(down))
			}
			if !s.ended || s.how != netio.EndFIN {
				t.Fatalf("seed %d: ended %v, %v; want a FIN", seed, s.ended, s.how)
			}
			s.c.Close()
			b.run(10 * time.Millisecond)
			if fin, reset := c.Ended(); !fin || reset || b.Open() != 0 {
				t.Fatalf("seed %d: fin %v, reset %v, %d files", seed, fin, reset, b.Open())
			}
		})
	}
}

// A close with input unread is a reset, and takes away what the peer has not read.
func TestCloseWithUnreadInputIsAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1)
		c, s := b.dial()
		s.c.PauseReading(true)
		c.Send(bytesOf(10))
		b.run(5 * time.Millisecond)
		if s.c.Unread() != 10 {
			t.Fatalf("%d bytes unread, want 10", s.c.Unread())
		}
		c.Stall(true)
		if n, err := s.c.Write(bytesOf(10)); n == 0 || err != nil {
			t.Fatal(n, err)
		}
		b.run(5 * time.Millisecond)
		s.c.Close()
		b.run(5 * time.Millisecond)
		c.Stall(false)
		b.run(time.Millisecond)
		if _, reset := c.Ended(); !reset || len(c.Take()) != 0 {
			t.Fatal("want a reset and nothing to read")
		}
	})
}

// A peer that has gone without a word leaves what it is sent unacknowledged; one that only
// does not read is seen to be alive.
func TestAcksOfTheSilentAndOfTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1)
		c1, s1 := b.dial()
		c2, s2 := b.dial()
		c1.Vanish()
		c2.Stall(true)
		for range 100 {
			_, _ = s1.c.Write(bytesOf(100))
			_, _ = s2.c.Write(bytesOf(100))
			b.run(time.Millisecond)
		}
		b.run(2 * time.Second)
		if a := s1.c.Acks(); !a.Owed || !a.Missed || a.Ago < 2*time.Second {
			t.Errorf("silent: %+v", a)
		}
		if a := s2.c.Acks(); !a.Owed || a.Missed || a.Ago > time.Second {
			t.Errorf("slow: %+v", a)
		}
		if n, err := s2.c.Write(bytesOf(100)); n != 0 || err != nil {
			t.Errorf("a full buffer took %d, %v", n, err)
		}
		if err := s2.c.NotifyWritable(5); err != nil {
			t.Fatal(err)
		}
		b.run(10 * time.Millisecond)
		if b.h.writable != 0 {
			t.Error("writable, though nobody reads")
		}
		c2.Stall(false)
		b.run(10 * time.Millisecond)
		if b.h.writable != 1 {
			t.Errorf("told %d times that it is writable, want 1", b.h.writable)
		}
	})
}

// Without a file nothing is accepted until the next Guard.
func TestNoFileToAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1)
		b.files = 8
		c, _ := b.dial()
		if b.h.failed != 1 || c.Accepted() {
			t.Fatalf("failed %d times, accepted %v", b.h.failed, c.Accepted())
		}
		b.files = 9
		b.run(time.Millisecond)
		if c.Accepted() {
			t.Fatal("accepted before the Guard")
		}
		b.Guard()
		b.run(time.Millisecond)
		if !c.Accepted() {
			t.Fatal("not accepted behind the Guard")
		}
	})
}

// A refused connection is told why and ends.
func TestRefusedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1)
		b.h.refuse = true
		c, _ := b.dial()
		c.Send(bytesOf(10))
		b.run(10 * time.Millisecond)
		if got := c.Take(); string(got) != "no" {
			t.Fatalf("got %q", got)
		}
		b.run(2 * time.Second)
		b.Guard()
		b.run(10 * time.Millisecond)
		if fin, _ := c.Ended(); !fin || b.Open() != 0 {
			t.Fatalf("fin %v, %d files", fin, b.Open())
		}
	})
}

// A path is silent about nothing that a Stop must end.
func TestStopEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1)
		_, s := b.dial()
		late := b.Dial(0, Traits{Latency: time.Hour, SendBuffer: 10, RecvBuffer: 10})
		done := make(chan error, 1)
		go func() { done <- b.Stop(context.Background()) }()
		synctest.Wait()
		b.run(10 * time.Millisecond)
		if err := <-done; err != nil || !s.ended || b.Open() != 0 || !late.Closed() {
			t.Fatalf("%v, ended %v, %d files, late closed %v", err, s.ended, b.Open(), late.Closed())
		}
	})
}
