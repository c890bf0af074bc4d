package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/services/client"
)

// What the server has not acknowledged is bounded: the next one waits until it has, or until
// its context ends, and the connection goes on.
func TestAFullRingHoldsBack(t *testing.T) {
	s := newResumer(t, "tcp")
	deaf := true
	s.on = func(c *peerConn, p codec.Packet) bool { return !deaf || p.Main == 0 }
	const frame = 8 + 100
	c := s.dial(func(cfg *client.Config) { cfg.MaxUnacked = 10 * frame })
	for i := range 10 {
		if err := c.Send(soon(t), hSend, fmt.Appendf(nil, "%0100d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, try := range []func(context.Context) error{
		func(ctx context.Context) error { return c.Send(ctx, hSend, nil) },
		func(ctx context.Context) error { _, err := c.Do(ctx, hEcho, nil); return err },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if err := try(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("over the ring's limit: got %v", err)
		}
		cancel()
	}
	if got := c.ResumeStats().Unacked; got != 10*frame {
		t.Errorf("unacknowledged: %d bytes, want %d", got, 10*frame)
	}
	s.mu.Lock()
	deaf = false
	s.mu.Unlock()
	s.breakAll() // it is told what the server has had, which is nothing
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ran) != 11 || s.ran[9] != fmt.Sprintf("2/9 %0100d", 9) {
		t.Errorf("ran %q", s.ran)
	}
}

// An answer says that the server has had its request and all before it: what waits for
// answers only does not wait for ACKs too.
func TestAnswersAcknowledge(t *testing.T) {
	s := newResumer(t, "tcp")
	s.on = func(c *peerConn, p codec.Packet) bool {
		if p.Main != 0 {
			c.session.told = c.session.received + 1 // no ACK from this server
		}
		return true
	}
	c := s.dial(func(cfg *client.Config) { cfg.MaxUnacked = 1 }) // one frame
	for i := range 100 {
		if i%10 == 9 { // what has no answer waits for an ACK
			if err := c.Send(soon(t), hSend, nil); err != nil {
				t.Fatal(err)
			}
			ran := i + 1 + i/10
			s.look("it is there", func() bool { return len(s.ran) == ran })
			s.mu.Lock()
			s.conns[0].ack()
			s.mu.Unlock()
		}
		if _, err := c.Do(soon(t), hEcho, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.ResumeStats().Unacked; got != 0 {
		t.Errorf("unacknowledged: %d bytes", got)
	}
}

// The client acknowledges after 64 frames, 64 KiB or a second.
func TestTheClientAcknowledges(t *testing.T) {
	s := newResumer(t, "tcp")
	c := s.dial(nil)
	var heard atomic.Int64
	c.On(hPush, func(codec.Packet) { heard.Add(1) })
	push := func(n, size int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for range n {
			s.conns[0].counted(codec.Packet{Main: 2, Sub: 4, Body: make([]byte, size)})
		}
	}
	empty := func(what string) {
		s.look(what, func() bool { return len(s.sessions[0].ring) == 0 })
	}
	start := time.Now()
	const rounds = 5
	for range rounds {
		push(64, 1)
		empty("64 frames")
		push(2, 32<<10)
		empty("64 KiB")
	}
	if d := time.Since(start); d >= rounds*time.Second {
		t.Errorf("%v for what is to be acknowledged at once", d) // by the clock a round takes a second or two
	}
	push(1, 1)
	empty("one frame, after a second")
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := int64(rounds*66 + 1); heard.Load() != want || len(s.acks) > rounds*33 {
		t.Errorf("%d ACKs of %d pushes, want fewer by far, of %d", len(s.acks), heard.Load(), want)
	}
}

// Close ends the session at the server, which would keep it else.
func TestCloseSaysBye(t *testing.T) {
	for _, door := range []string{"tcp", "tls", "ws", "wss"} {
		t.Run(door, func(t *testing.T) {
			s := newResumer(t, door)
			c := s.dial(nil)
			if _, err := c.Do(soon(t), hEcho, nil); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := c.Do(soon(t), hSilent, nil)
				done <- err
			}()
			s.look("the request is there", func() bool { return len(s.ran) == 2 })
			c.Close()
			if err := <-done; !errors.Is(err, client.ErrClosed) {
				t.Errorf("under way: got %v", err)
			}
			s.look("BYE", func() bool { return s.byes == 1 && len(s.sessions) == 0 })
		})
	}
}

// A server without resume is served without: what it sends in front of its refusal is heard.
func TestAServerWithoutResume(t *testing.T) {
	s := newResumer(t, "tcp")
	s.greet = func(c *peerConn, _ codec.Hello) bool {
		if len(c.conns)%2 == 0 {
			c.write(codec.Packet{Main: 2, Sub: 4, Body: []byte("early")})
		}
		c.write(refusal(2, 5, "unknown"))
		return false
	}
	heard := make(chan string, 10)
	var lost atomic.Int32
	c := s.dial(func(cfg *client.Config) {
		cfg.OnLost = func(err error) {
			if errors.Is(err, client.ErrSession) {
				t.Errorf("there was no session: %v", err)
			}
			lost.Add(1)
		}
	})
	c.On(hPush, func(p codec.Packet) { heard <- string(p.Body) })
	for i := range 2 {
		if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
			t.Fatalf("%d: got %q, %v", i, b, err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := c.Do(soon(t), hSilent, nil)
			done <- err
		}()
		s.look("the request is there", func() bool { return len(s.ran) == 2*i+2 })
		s.breakAll()
		if err := <-done; !errors.Is(err, client.ErrLost) {
			t.Errorf("under way: got %v", err)
		}
	}
	if text := <-heard; text != "early" {
		t.Errorf("heard %q", text)
	}
	if _, unexpected := c.Stats(); unexpected != 0 {
		t.Errorf("%d unexpected packets", unexpected)
	}
}

// A session that another connection goes on with is not fought over.
func TestASessionThatIsTakenOver(t *testing.T) {
	s := newResumer(t, "ws")
	told := make(chan error, 10)
	c := s.dial(func(cfg *client.Config) { cfg.OnLost = func(err error) { told <- err } })
	s.mu.Lock()
	first := s.sessions[0].token
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(soon(t), hSilent, nil)
		done <- err
	}()
	s.look("the request is there", func() bool { return len(s.ran) == 1 })
	s.mu.Lock()
	s.greet = func(_ *peerConn, h codec.Hello) bool {
		if h.Resume && h.Token == first {
			t.Error("it asks for the session again")
		}
		return true
	}
	conn := s.conns[0].ws
	s.mu.Unlock()
	_ = conn.Close(4000, "")
	if err := <-done; !errors.Is(err, client.ErrTakenOver) || !errors.Is(err, client.ErrSession) || !errors.Is(err, client.ErrLost) {
		t.Errorf("under way: got %v", err)
	}
	if err := <-told; !errors.Is(err, client.ErrTakenOver) {
		t.Errorf("OnLost: got %v", err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("a new session: got %q, %v", b, err)
	}
}

// A server that counts what can't be is not believed: the session ends, with a BYE.
func TestAServerThatCountsWrong(t *testing.T) {
	welcome := func(resumed bool, received uint64) codec.Packet {
		return codec.Packet{Sub: 6, Body: codec.Default().AppendWelcome(nil, codec.Welcome{Resumed: resumed, Received: received})}
	}
	ack := func(b string) func(*peerConn) {
		return func(c *peerConn) { c.write(codec.Packet{Sub: 7, Body: []byte(b)}) }
	}
	for _, test := range []struct {
		name string
		live func(*peerConn) // to a connection with one request that was answered and one that was not
		next codec.Packet    // or the answer to the HELLO that resumes
	}{
		{"ACK of more than was sent", ack("\x00\x00\x00\x00\x00\x00\x00\x03"), codec.Packet{}},
		{"ACK of 7 bytes", ack("\x00\x00\x00\x00\x00\x00\x01"), codec.Packet{}},
		{"a second WELCOME", func(c *peerConn) { c.write(welcome(true, 2)) }, codec.Packet{}},
		{"an answer too many", func(c *peerConn) { c.counted(codec.Packet{Main: 1, Sub: 1}) }, codec.Packet{}},
		{"WELCOME with more than was sent", nil, welcome(true, 3)},
		{"WELCOME with less than was answered", nil, welcome(true, 0)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newResumer(t, "tcp")
			c := s.dial(nil)
			if _, err := c.Do(soon(t), hEcho, nil); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := c.Do(soon(t), hSilent, nil)
				done <- err
			}()
			s.look("the request is there", func() bool { return len(s.ran) == 2 })
			s.mu.Lock()
			if test.live != nil {
				test.live(s.conns[0])
			} else {
				s.greet = func(c *peerConn, h codec.Hello) bool {
					if !h.Resume {
						return true
					}
					c.session = s.sessions[0]
					c.session.conn = c
					c.write(test.next)
					return false
				}
				_ = s.conns[0].raw.Close()
			}
			s.mu.Unlock()
			if err := <-done; !errors.Is(err, client.ErrSession) {
				t.Errorf("under way: got %v", err)
			}
			s.look("BYE", func() bool { return s.byes == 1 })
			if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
				t.Errorf("a new session: got %q, %v", b, err)
			}
		})
	}
}

// Nobody to go on with: after the time of Resume calls under way end. Those made since wait.
func TestASessionThatIsNotResumedInTime(t *testing.T) {
	s := newResumer(t, "tcp")
	var dialed atomic.Int32
	c := s.dial(func(cfg *client.Config) {
		cfg.Resume = 50 * time.Millisecond
		cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dialed.Add(1) > 1 {
				return nil, errors.New("no network")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(soon(t), hSilent, nil)
		done <- err
	}()
	s.look("the request is there", func() bool { return len(s.ran) == 1 })
	s.breakAll()
	if err := <-done; !errors.Is(err, client.ErrLost) || !errors.Is(err, client.ErrSession) {
		t.Errorf("under way: got %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, hEcho, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("made since: got %v", err)
	}
	if c.Connected() {
		t.Error("it says that it is connected")
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  client.Config
	}{
		{"MaxUnacked", client.Config{MaxUnacked: -1}}, {"MaxUnsent", client.Config{MaxUnsent: -1}}, {"MaxCalls", client.Config{MaxCalls: -1}},
		{"NoReconnect", client.Config{Resume: time.Second, NoReconnect: true}},
	} {
		test.cfg.Addrs = []string{"127.0.0.1:1"}
		if c, err := client.Dial(soon(t), test.cfg); err == nil {
			c.Close()
			t.Errorf("%s: want an error", test.name)
		}
	}
	c := newResumer(t, "tcp").dial(nil)
	if err := c.Send(soon(t), client.Handle(0, 8), nil); !errors.Is(err, codec.ErrBadHandle) {
		t.Errorf("a frame of Main 0: got %v", err)
	}
}
