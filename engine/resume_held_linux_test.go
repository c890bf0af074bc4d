package engine

import (
	"sync/atomic"
	"testing"

	"millrace/codec"
)

// A session whose callback holds its loop up is taken over when that returns, not under its
// hands, and its peer loses nothing.
func TestTakeoverWhileACallbackBlocks(t *testing.T) {
	block, inside := make(chan struct{}), make(chan struct{}, 1)
	var moved atomic.Int64
	h := newResumable()
	read := h.read
	h.read = func(s *Session, p codec.Packet) {
		was := s.RemoteAddr().String()
		if p.Sub == 7 {
			inside <- struct{}{}
			<-block
		}
		read(s, p)
		if p.Sub == 7 { // what follows may run on a worker while the loop goes on
			s.Reply(p, p.Body)
			if s.RemoteAddr().String() != was {
				moved.Add(1)
			}
		}
	}
	for _, loops := range []int{1, 3} {
		cfg := resumeConfig("tcp://127.0.0.1:0")
		cfg.Dispatch, cfg.Loops = Inline, loops
		srv := serve(t, cfg, h)
		p := hello(t, srv)
		p.ask(1, 1, "a")
		p.ask(1, 7, "blocks")
		p.ask(1, 1, "b")
		<-inside
		p.close()
		var others []*resumer
		for range 4 * loops { // some on each loop
			others = append(others, hello(t, srv))
		}
		served := func() { // the others, on whichever loops they are
			for _, o := range others {
				o.ask(1, 1, "c")
				o.want(t, len(o.got)+1)
			}
		}
		served()
		joined := make(chan error, 1)
		go func() { joined <- p.connect(-1, -1) }()
		waitFor(t, "the HELLO that takes over", func() bool { return joining(srv) == 1 || len(joined) > 0 })
		served() // so the loops have had their turns since
		select {
		case err := <-joined:
			t.Errorf("%d loops: taken over under the callback: %v", loops, err)
			joined <- err
		default:
		}
		block <- struct{}{}
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
		p.want(t, 3)
		if got := show(p.got); got != `1/1 "a"; 1/7 "blocks"; 1/1 "b"; ` {
			t.Errorf("%d loops: got %s", loops, got)
		}
	}
	if n := moved.Load(); n > 0 {
		t.Errorf("the address of a session changed %d times under its callback", n)
	}
}

// joining is how many connections wait for the session that they have asked for.
func joining(srv *Server) (n int) {
	for _, l := range srv.allLoops() {
		found := make(chan int)
		l.onLoop(func(l *loop) {
			n := 0
			for _, k := range l.links {
				if k.state == linkJoining {
					n++
				}
			}
			found <- n
		})
		n += <-found
	}
	return n
}

// What a link on another loop brings, and its end, wait for the callback that holds the
// session's loop up.
func TestLinksOfOtherLoopsWaitForACallback(t *testing.T) {
	block, inside := make(chan struct{}), make(chan struct{}, 1)
	var early atomic.Int64
	h := newResumable()
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.CompareAndSwap(nil, x) }
	read := h.read
	h.read = func(s *Session, p codec.Packet) {
		if p.Sub != 7 {
			read(s, p)
			return
		}
		inside <- struct{}{}
		<-block
		if s.Detached() {
			early.Add(1)
		}
		s.Reply(p, p.Body)
	}
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.Dispatch, cfg.Loops = Inline, 3
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	waitFor(t, "OnSocketAccept", func() bool { return s.Load() != nil })
	ln := s.Load().line()
	waitFor(t, "a connection on another loop", func() bool {
		p.close()
		waiting(t, srv, 1)
		p.reconnect(t)
		ln.mu.Lock()
		defer ln.mu.Unlock()
		return ln.link.loop != ln.home
	})
	var others []*resumer
	for range 12 {
		others = append(others, hello(t, srv))
	}
	served := func() {
		for range 2 { // the link's loop has read what came, and the session's has it
			for _, o := range others {
				o.ask(1, 1, "c")
				o.want(t, len(o.got)+1)
			}
		}
	}
	a, b := frame(1, 7, "blocks"), frame(1, 1, "b")
	p.sent = append(p.sent, a, b)
	p.conn.Write(append(a[:len(a):len(a)], b[:5]...))
	<-inside
	served()
	p.conn.Write(b[5:])
	served()
	p.close()
	served()
	block <- struct{}{}
	waiting(t, srv, 1)
	p.reconnect(t)
	p.want(t, 2)
	if got := show(p.got); got != `1/7 "blocks"; 1/1 "b"; ` || h.ran.Load() < 1 {
		t.Errorf("got %s", got)
	}
	if early.Load() > 0 {
		t.Error("the session waited for its peer under its callback")
	}
}
