package engine

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// A peer that acknowledges as the protocol allows is not ended for it: by steps that leave no room yet
// for a large frame; within a second, where FrameTimeout is shorter; and late, as what was sent took
// long to arrive.
func TestAPeerMayTakeItsTimeToAcknowledge(t *testing.T) {
	t.Parallel()
	count := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	for name, c := range map[string]struct {
		timeout time.Duration
		run     func(t *testing.T, p *resumer, s *Session)
	}{
		"by steps": {4 * time.Second, func(t *testing.T, p *resumer, s *Session) {
			for range 30 {
				s.Push(2, 4, make([]byte, 2000))
			}
			s.Push(2, 4, make([]byte, 60_000))
			p.want(t, 30)
			for i := range 28 {
				time.Sleep(250 * time.Millisecond)
				if err := p.write(SubAck, count(i+1)); err != nil {
					t.Fatal(err)
				}
			}
			p.ackNow(t)
			p.want(t, 31)
		}},
		"within a second": {200 * time.Millisecond, func(t *testing.T, p *resumer, s *Session) {
			for range 60 {
				s.Push(2, 4, make([]byte, 5000))
			}
			for n := 12; n <= 60; n += 12 {
				p.want(t, n)
				time.Sleep(600 * time.Millisecond)
				p.ackNow(t)
			}
		}},
		"late": {3 * time.Second, func(t *testing.T, p *resumer, s *Session) {
			for range 60 {
				s.Push(2, 4, make([]byte, 5000))
			}
			time.Sleep(4 * time.Second) // reading nothing
			p.want(t, 12)
			time.Sleep(600 * time.Millisecond)
			for n := 24; n <= 60; n += 12 {
				p.ackNow(t)
				p.want(t, n)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newResumable()
			var s atomic.Pointer[Session]
			h.accept = func(x *Session) { s.Store(x) }
			cfg := resumeConfig("tcp://127.0.0.1:0")
			cfg.ResumeBytes, cfg.FrameTimeout, cfg.SocketSendBuffer = 64<<10, c.timeout, 8<<10
			srv := serve(t, cfg, h)
			p := &resumer{url: srv.URLs()[0], ackEvery: 1 << 60}
			p.reconnect(t)
			defer p.close()
			waitFor(t, "a session", func() bool { return s.Load() != nil })
			if err := p.cut.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				t.Fatal(err)
			}
			c.run(t, p, s.Load())
			if srv.detaches.Load() != 0 || h.detached.Load() != 0 {
				t.Errorf("the connection was ended: %v", srv.Stats().Closes)
			}
		})
	}
}

// What a session on a unix socket has not handed to the kernel at its end waits for a peer that reads.
func TestALineOnAUnixSocketIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, scheme := range []string{"unix", "tls+unix", "ws+unix"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			h := newResumable()
			var s atomic.Pointer[Session]
			h.accept = func(x *Session) { s.Store(x) }
			cfg := resumeConfig(scheme + "://" + filepath.Join(dir, scheme))
			cfg.Linger, cfg.ResumeBytes = 2*time.Second, 8<<20
			srv := serve(t, cfg, h)
			raw, err := net.Dial("unix", filepath.Join(dir, scheme))
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			raw.SetDeadline(time.Now().Add(60 * time.Second))
			nc, first := raw, frame(0, SubHello, "\x01\x00")
			switch scheme {
			case "tls+unix":
				nc = tls.Client(raw, clientTLS)
			case "ws+unix":
				nc, first = upgradeConn(t, raw, ""), wsFrame(0x82, first)
			}
			nc.Write(first)
			until(t, "a session", func() bool { return s.Load() != nil })
			sent, ln := 0, s.Load().conn.(*line)
			until(t, "a full socket", func() bool {
				for range 8 {
					s.Load().Push(2, 4, make([]byte, 1000))
					sent += 1008
				}
				return ln.unsent() > 40_000
			})
			s.Load().Close()
			until(t, "the end of the session", func() bool { return srv.Stats().Closes[ReasonServerClosed] == 1 })
			got := 0
			for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
				n, err := io.ReadFull(raw, make([]byte, 512))
				if got += n; err != nil {
					t.Fatalf("%v behind %d bytes", err, got)
				}
			}
			n, err := io.Copy(io.Discard, raw)
			if got += int(n); err != nil || got < sent {
				t.Errorf("%d bytes, %v, want %d and more", got, err, sent)
			}
		})
	}
}

// A connection that is ended with something unsent says so as soon as its peer has read that, and not
// only when the server gives it up: one whose session another connection has taken over, and that of a
// slow consumer, in the middle of a message.
func TestAnEndedLinkSaysSo(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tls", "ws", "wss"} {
		for _, how := range []string{"taken over", "slow"} {
			if scheme != "tls" && how == "taken over" {
				continue // it is not told in the middle of a message
			}
			t.Run(scheme+" "+how, func(t *testing.T) {
				t.Parallel()
				h := newResumable()
				var s atomic.Pointer[Session]
				h.accept = func(x *Session) { s.Store(x) }
				cfg := resumeConfig(scheme + "://127.0.0.1:0")
				cfg.SocketSendBuffer, cfg.Linger, cfg.MaxOutbound = 8<<10, time.Minute, 256<<10
				srv := serve(t, cfg, h)
				raw, err := (&net.Dialer{Control: smallWindow}).Dial("tcp", srv.Addrs()[0].String())
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				raw.SetDeadline(time.Now().Add(30 * time.Second))
				nc := raw
				if scheme != "ws" {
					nc = tls.Client(raw, clientTLS)
				}
				var w *rawWS
				if scheme == "tls" {
					nc.Write(frame(0, SubHello, "\x01\x00"))
				} else {
					w = upgradeConn(t, nc, "")
					w.Write(wsFrame(0x82, frame(0, SubHello, "\x01\x00")))
				}
				until(t, "a session", func() bool { return s.Load() != nil })
				for range 3 {
					s.Load().Push(2, 4, bytes.Repeat([]byte("x"), 60_000))
				}
				until(t, "a full socket", func() bool { return s.Load().conn.(*line).unsent() > 0 })
				switch how {
				case "slow":
					until(t, "a slow consumer", func() bool {
						s.Load().Push(2, 4, make([]byte, 60_000))
						return srv.Stats().Closes[ReasonSlowConsumer] == 1
					})
				default:
					var token []byte
					r := codec.NewReader(nc, nil)
					f, err := r.Next()
					if err != nil || f.Sub != SubWelcome {
						t.Fatal(f, err)
					}
					token = bytes.Clone(f.Body[1:17])
					p := &resumer{url: srv.URLs()[0], ackEvery: 1 << 60, tokens: [][]byte{token}}
					p.reconnect(t)
					defer p.close()
				}
				if w == nil {
					if _, err := io.Copy(io.Discard, nc); err != nil {
						t.Errorf("the end: %v, want a close_notify", err)
					}
					return
				}
				for {
					first, body, err := w.next()
					if err != nil {
						t.Fatal(err)
					}
					if first == 0x88 {
						if got := binary.BigEndian.Uint16(body); got != 1008 {
							t.Errorf("closed with %d, want 1008", got)
						}
						return
					}
				}
			})
		}
	}
}

// A peer that dies is seen to be dead when it was sent something once, on whichever loop its
// connection is.
func TestADeadPeerOnAnotherLoopIsSeen(t *testing.T) {
	t.Parallel()
	h := newResumable()
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.Store(x) }
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.Loops, cfg.UserTimeout, cfg.Linger = 2, time.Second, 100*time.Millisecond
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	waitFor(t, "a session", func() bool { return s.Load() != nil })
	ln := s.Load().conn.(*line)
	waitFor(t, "a connection on another loop", func() bool {
		ln.mu.Lock()
		defer ln.mu.Unlock()
		if ln.link != nil && ln.link.loop != ln.home {
			return true
		}
		ln.mu.Unlock()
		defer ln.mu.Lock()
		p.close()
		p.reconnect(t)
		p.ask(1, 1, "a")
		p.want(t, len(p.got)+1)
		return false
	})
	time.Sleep(3 * time.Second) // so that all is acknowledged and nothing is known of it
	was := srv.detaches.Load()
	die(t, p.cut.Conn)
	if err := s.Load().Push(2, 4, []byte("into the void")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(12 * time.Second); srv.detaches.Load() == was; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) { // the kernel gives up some seconds later, or minutes
			t.Fatal("the death is not seen")
		}
	}
}

// A peer that is read slowly, for its rate, acknowledges late. What it has not acknowledged is kept
// meanwhile, as its connection may break before it has read that.
func TestARateIsNoReasonToForget(t *testing.T) {
	t.Parallel()
	h := newResumable()
	h.read = func(*Session, codec.Packet) {}
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.Store(x) }
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.Loops, cfg.ResumeBytes, cfg.ByteRate, cfg.SocketRecvBuffer = 1, 32<<10, 8<<10, 64<<10
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	waitFor(t, "a session", func() bool { return s.Load() != nil })
	conn := p.cut.Conn
	go conn.Write(bytes.Repeat(frame(1, 1, "a request without an answer"), 20_000))
	until(t, "a pause", func() bool { return srv.Stats().Loops[0].Pauses > 0 })
	const n = 55 // more than the ring holds, but not twice as much
	for range n {
		if err := s.Load().Push(2, 4, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(4 * time.Second) // reading nothing, which has all arrived
	p.close()
	waiting(t, srv, 1)
	p.sent = make([][]byte, 20_000) // some of them have arrived; none is sent again
	p.reconnect(t)
	p.ackEvery = 8
	p.want(t, n)
}
