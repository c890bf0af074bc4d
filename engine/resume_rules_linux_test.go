package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// hello connects a resumer that never acknowledges by itself.
func hello(t testing.TB, srv *Server) *resumer {
	t.Helper()
	p := &resumer{url: srv.URLs()[0], ackEvery: 1 << 60}
	p.reconnect(t)
	t.Cleanup(p.close)
	return p
}

// reconnect connects again, and the session must go on.
func (p *resumer) reconnect(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		err := p.connect(-1, -1)
		if err == nil {
			break
		}
		p.close()
		if !errors.Is(err, errCut) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// want reads counted frames until n are there.
func (p *resumer) want(t testing.TB, n int) {
	t.Helper()
	for len(p.got) < n {
		if err := p.next(); err != nil {
			t.Fatalf("after %d frames of %d: %v", len(p.got), n, err)
		}
	}
}

// ackNow acknowledges all that has come.
func (p *resumer) ackNow(t testing.TB) {
	t.Helper()
	p.told = p.received
	if err := p.write(SubAck, binary.BigEndian.AppendUint64(nil, p.received)); err != nil {
		t.Fatal(err)
	}
}

// end reads to the end of the connection, and counts what comes.
func (p *resumer) end(t testing.TB) {
	t.Helper()
	for {
		if err := p.next(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func waiting(t testing.TB, srv *Server, n int) {
	t.Helper()
	waitFor(t, "sessions to wait", func() bool { return srv.Stats().Waiting == n })
}

// linkless waits until n sessions wait whose links have been left, which behind a FIN is when
// nothing is owed any more.
func linkless(t testing.TB, srv *Server, n int) {
	t.Helper()
	waiting(t, srv, n)
	waitFor(t, "links to be left", func() bool {
		loops := srv.allLoops()
		without := make(chan int, len(loops))
		for _, l := range loops {
			l.onLoop(func(l *loop) {
				k := 0
				for _, s := range l.sessions {
					if ln := s.line(); ln != nil && ln.away != 0 && ln.cur == nil {
						k++
					}
				}
				without <- k
			})
		}
		sum := 0
		for range loops {
			sum += <-without
		}
		return sum == n
	})
}

// What is no HELLO at the beginning, and what comes without one, is answered as the protocol
// says and changes nothing else.
func TestFramesOfResumeOutOfPlace(t *testing.T) {
	srv := serve(t, resumeConfig("tcp://127.0.0.1:0"), newResumable())
	plain := serve(t, Config{}, newResumable())
	eight := make([]byte, 8)
	for _, c := range []struct {
		name  string
		srv   *Server
		hello bool
		sub   uint16
		body  []byte
		code  ErrorCode
	}{
		{"HELLO without resume", plain, false, SubHello, []byte{1, 0}, CodeUnknownHandle},
		{"HELLO of version 2", srv, false, SubHello, []byte{2, 0}, CodeBadBody},
		{"HELLO with flags", srv, false, SubHello, []byte{1, 1}, CodeBadBody},
		{"short HELLO", srv, false, SubHello, []byte{1}, CodeBadBody},
		{"second HELLO", srv, true, SubHello, []byte{1, 0}, CodeBadBody},
		{"ACK without HELLO", srv, false, SubAck, eight, CodeUnknownHandle},
		{"BYE without HELLO", srv, false, SubBye, nil, CodeUnknownHandle},
		{"WELCOME", srv, true, SubWelcome, make([]byte, 25), CodeUnknownHandle},
		{"ACK of more than was sent", srv, true, SubAck, []byte{0, 0, 0, 0, 0, 0, 0, 1}, CodeBadBody},
		{"short ACK", srv, true, SubAck, eight[:7], CodeBadBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := dial(t, c.srv)
			if c.hello {
				k.send(0, SubHello, "\x01\x00")
				if p, err := k.read(); err != nil || p.Sub != SubWelcome || p.Body[0] != 0 {
					t.Fatalf("WELCOME: %v %v", p, err)
				}
			}
			k.send(0, c.sub, string(c.body))
			k.expectError(c.code, uint32(c.sub))
			k.send(1, 1, "still there")
			k.expect(1, 1, "still there")
			if !c.hello {
				k.send(0, SubHello, "\x01\x00") // not the first frame any more
				want := CodeBadBody
				if c.srv == plain {
					want = CodeUnknownHandle
				}
				k.expectError(want, SubHello)
			}
		})
	}
}

// A connection is nobody's until its first frame: a broadcast in front of it is not for it,
// and the WELCOME comes before any other frame.
func TestBroadcastBetweenAcceptAndHello(t *testing.T) {
	var closed atomic.Int64
	srv := serve(t, resumeConfig("tcp://127.0.0.1:0"), &funcs{
		accept: func(s *Session) { s.Push(2, 1, []byte("from OnSocketAccept")) },
		close:  func(*Session, Reason) { closed.Add(1) },
	})
	other := dial(t, srv)
	other.send(1, 9, "a session from here on")
	waitFor(t, "the first session", func() bool { return srv.Stats().Conns == 1 })
	early := dial(t, srv)
	waitFor(t, "the connection", func() bool { return srv.pending.Load() == 1 })
	for i := range 3 {
		if i == 2 {
			early.Write(frame(0, SubHello, "\x01\x00")[:9]) // half of it
			waitFor(t, "half a frame", func() bool { return srv.budget.Used() > 0 })
		}
		if err := srv.Broadcast(3, 1, []byte("before")); err != nil {
			t.Fatal(err)
		}
	}
	if n := srv.Stats().Conns; n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
	other.expect(2, 1, "from OnSocketAccept")
	for range 3 {
		other.expect(3, 1, "before")
	}
	early.Write(frame(0, SubHello, "\x01\x00")[9:])
	if p, err := early.read(); err != nil || p.Main != 0 || p.Sub != SubWelcome || p.Body[0] != 0 {
		t.Fatalf("first came %v %v", p, err)
	}
	early.expect(2, 1, "from OnSocketAccept")
	srv.Broadcast(3, 1, []byte("after"))
	early.expect(3, 1, "after")
	// Who goes without a frame never was a session.
	dial(t, srv).Close()
	waitFor(t, "its end", func() bool { return srv.pending.Load() == 0 })
	if closed.Load() != 0 {
		t.Errorf("%d sessions closed", closed.Load())
	}
}

// A session whose connection breaks keeps its index, round, groups and what is held for it,
// and gets what came meanwhile; the handler hears of both.
func TestSessionLivesWhileItsConnectionIsAway(t *testing.T) {
	h := newResumable()
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.Store(x) }
	srv := serve(t, resumeConfig("tcp://127.0.0.1:0"), h)
	p := hello(t, srv)
	waitFor(t, "OnSocketAccept", func() bool { return s.Load() != nil })
	x := s.Load()
	id, was := x.ID(), x.RemoteAddr().String()
	if _, err := srv.Group("room").Join(x); err != nil {
		t.Fatal(err)
	}
	release := x.Hold()
	p.close()
	waiting(t, srv, 1)
	if !x.Connected() || !x.Detached() || srv.Session(id) != x {
		t.Errorf("connected %v, detached %v, found %v", x.Connected(), x.Detached(), srv.Session(id) == x)
	}
	waitFor(t, "OnSocketDetach", func() bool { return h.detached.Load() == 1 })
	if n, err := srv.Group("room").Send(1, 8, []byte("group")); n != 1 || err != nil {
		t.Errorf("group send: %d, %v", n, err)
	}
	srv.Broadcast(1, 2, []byte("broadcast"))
	x.Push(2, 4, []byte("push"))
	x.sendPing() // is not kept
	x.Send(1, 1, []byte("late answer"))
	release()
	p.reconnect(t)
	waitFor(t, "OnSocketResume", func() bool { return h.resumed.Load() == 1 })
	p.want(t, 4)
	if got := show(p.got); got != `1/8 "group"; 1/2 "broadcast"; 2/4 "push"; 1/1 "late answer"; ` {
		t.Errorf("got %s", got)
	}
	if x.Detached() || x.RemoteAddr().String() == was || x.ID() != id {
		t.Errorf("detached %v, address %v, was %v", x.Detached(), x.RemoteAddr(), was)
	}
	if a := p.cut.Conn.LocalAddr().String(); x.RemoteAddr().String() != a {
		t.Errorf("the address is %v, want %v", x.RemoteAddr(), a)
	}
	st := srv.Stats()
	if st.Detached != 1 || st.Resumed != 1 || st.Waiting != 0 || st.Conns != 1 {
		t.Errorf("stats: %d detached, %d resumed, %d wait, %d conns", st.Detached, st.Resumed, st.Waiting, st.Conns)
	}
}

// A FIN after a HELLO is a break: what was asked is answered, then the server's FIN comes,
// and the session waits. After BYE, or without HELLO, it is the end.
func TestFinIsABreakUnlessBye(t *testing.T) {
	h := newResumable()
	ended := make(chan Reason, 10)
	h.close = func(_ *Session, why Reason) { ended <- why }
	for _, scheme := range []string{"tcp", "tls", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			srv := serve(t, resumeConfig(scheme+"://127.0.0.1:0"), h)
			p := hello(t, srv)
			p.ask(1, 4, "asked")
			switch c := p.conn.(type) {
			case *cutConn:
				c.Conn.(*net.TCPConn).CloseWrite()
			case interface{ CloseWrite() error }:
				c.CloseWrite() // close_notify
			default:
				p.want(t, 2) // websocket's own client reads nothing behind its close frame
				c.Close()
			}
			if scheme != "ws" {
				p.end(t)
			}
			if got := show(p.got); got != `1/4 "asked"; 2/4 "late"; ` {
				t.Errorf("got %s", got)
			}
			waiting(t, srv, 1)
			p.reconnect(t)
			p.ask(1, 1, "again")
			p.want(t, 3)
			p.ask(1, 4, "last")
			p.write(SubBye, nil)
			if c, ok := p.conn.(*cutConn); ok {
				c.Conn.(*net.TCPConn).CloseWrite()
				p.end(t)
				if len(p.got) != 5 {
					t.Errorf("got %s", show(p.got))
				}
			} else {
				p.close()
			}
			if why := <-ended; scheme == "tcp" && why != ReasonPeerClosed {
				t.Errorf("closed for %v", why)
			}
			waitFor(t, "its tokens to go", func() bool { return srv.tokens.Len() == 0 })
			if err := p.connect(-1, -1); !errors.Is(err, errLost) && !errors.Is(err, errCut) {
				t.Errorf("after BYE: %v", err)
			}
		})
	}
}

// Past the grace, or past what may be kept, the session ends, with its reason, and a peer
// that comes back gets a new one.
func TestSessionsEndPastGraceAndRing(t *testing.T) {
	ended := make(chan Reason, 10)
	var s atomic.Pointer[Session]
	h := &funcs{accept: func(x *Session) { s.Store(x) }, close: func(_ *Session, why Reason) { ended <- why }, read: echo}
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.Resume, cfg.ResumeBytes = 300*time.Millisecond, 8<<10
	srv := serve(t, cfg, h)
	lost := func(p *resumer, want Reason) {
		t.Helper()
		if why := <-ended; why != want {
			t.Errorf("closed for %v, want %v", why, want)
		}
		err := errCut
		for errors.Is(err, errCut) { // with either token
			err = p.connect(-1, -1)
			p.write(SubBye, nil)
			p.close()
			<-ended
		}
		if !errors.Is(err, errLost) {
			t.Errorf("came back: %v", err)
		}
	}
	p := hello(t, srv)
	p.close()
	lost(p, ReasonResumeTimeout)

	cfg.Resume = time.Minute
	srv = serve(t, cfg, h)
	s.Store(nil)
	p = hello(t, srv)
	waitFor(t, "OnSocketAccept", func() bool { return s.Load() != nil })
	x := s.Load()
	p.close()
	linkless(t, srv, 1)
	for range 7 {
		if err := x.Push(2, 4, make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	p.reconnect(t) // that was not too much
	p.want(t, 7)
	p.close()
	linkless(t, srv, 1)
	for range 9 {
		x.Push(2, 4, make([]byte, 1<<10))
	}
	lost(p, ReasonResumeOverrun)
	sends := map[string]func(){
		"push":      func() { s.Load().Push(2, 4, make([]byte, 1<<10)) },
		"broadcast": func() { srv.Broadcast(2, 4, make([]byte, 1<<10)) },
	}
	for name, send := range sends {
		for _, atOnce := range []bool{false, true} {
			s.Store(nil)
			p = hello(t, srv)
			waitFor(t, "OnSocketAccept", func() bool { return s.Load() != nil }) // no broadcast reaches it before
			p.close()
			linkless(t, srv, 1)
			nine := func() {
				for range 9 {
					send()
				}
			}
			if atOnce { // for the session's loop
				done := make(chan bool)
				s.Load().loop.onLoop(func(*loop) { nine(); close(done) })
				<-done
			} else {
				nine()
			}
			if lost(p, ReasonResumeOverrun); t.Failed() {
				t.Fatalf("nine of %s, at once: %v", name, atOnce)
			}
		}
	}
	if n := srv.Stats().Closes[ReasonResumeOverrun]; n != 5 {
		t.Errorf("%d closed for what was to be kept", n)
	}
}

// A token works until its successor is proven, and is then used up; the successor does not
// work before that.
func TestTokensAreForOneUse(t *testing.T) {
	srv := serve(t, resumeConfig("tcp://127.0.0.1:0"), newResumable())
	try := func(token []byte, received uint64) (*client, codec.Packet) {
		t.Helper()
		c := dial(t, srv)
		c.send(0, SubHello, string(binary.BigEndian.AppendUint64(append([]byte{1, 0}, token...), received)))
		w, err := c.read()
		if err != nil || w.Sub != SubWelcome {
			t.Fatalf("%v %v", w, err)
		}
		return c, w.Clone()
	}
	c := dial(t, srv)
	c.send(0, SubHello, "\x01\x00")
	w, _ := c.read()
	first := bytes.Clone(w.Body[1:17])
	for range 3 { // its WELCOME is lost again and again
		c, w = try(first, 0)
		if w.Body[0] != 1 {
			t.Fatal("the token was used up by a WELCOME that nobody has had")
		}
		c.Close()
	}
	second := bytes.Clone(w.Body[1:17])
	if c, w = try(second, 0); w.Body[0] != 0 {
		t.Fatal("an unproven token works")
	}
	c.Close()
	if c, w = try(first, 1); w.Body[0] != 0 {
		t.Error("a peer that claims what was not sent is let in")
	}
	c.Close()
	c, w = try(first, 0)
	third := bytes.Clone(w.Body[1:17])
	c.send(0, SubPing, "")
	if p, err := c.read(); err != nil || p.Sub != SubPong {
		t.Fatalf("%v %v", p, err)
	}
	if _, w = try(first, 0); w.Body[0] != 0 {
		t.Error("a used token works")
	}
	if _, w = try(second, 0); w.Body[0] != 0 {
		t.Error("a token that was replaced works")
	}
	c.send(1, 1, "still served")
	c.expect(1, 1, "still served")
	if _, w = try(third, 1); w.Body[0] != 1 {
		t.Error("the proven token does not work")
	}
	c.expectEOF() // it was replaced, and got no frame more
	if srv.Stats().Closes[ReasonReplaced] == 0 {
		t.Error("no connection counts as replaced")
	}
}
