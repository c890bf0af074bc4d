package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/strand"
)

// owing is a handler that takes a Hold in its first MarshalSession.
type owing struct {
	*handed
	hold func(*Session) // nil: there has been one
}

func (h *owing) MarshalSession(s *Session) ([]byte, error) {
	if h.hold != nil {
		h.hold(s)
		h.hold = nil
	}
	return h.handed.MarshalSession(s)
}

// An answer that is owed from MarshalSession on, or from just before it, is waited for.
func TestSessionThatOwesAgainDoesNotGo(t *testing.T) {
	ctx := context.Background()
	t.Run("behind MarshalSession", func(t *testing.T) {
		srv, token, p := leftBehind(t)
		h := &owing{handed: newHanded()}
		var paid atomic.Bool
		h.hold = func(s *Session) {
			release := s.Hold()
			time.AfterFunc(50*time.Millisecond, func() { paid.Store(true); release() })
		}
		srv.SetHandler(h)
		d, err := srv.Depart(ctx, SumOf(token), p.received, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if !paid.Load() || h.marshalled.Load() < 2 {
			t.Errorf("answered %v, marshalled %d times", paid.Load(), h.marshalled.Load())
		}
		if !d.Commit() {
			t.Error("it does not go")
		}
	})
	t.Run("before MarshalSession", func(t *testing.T) {
		srv, token, _ := leftBehind(t)
		h := newHanded()
		srv.SetHandler(h)
		d := departureOf(t, srv, token)
		release := d.Session.Hold()
		defer release()
		it := bufpool.Empty(strand.Tell)
		it.Fn = d.marshal
		d.ln.home.post(d.Session, it)
		if err := <-d.said; !errors.Is(err, errAgain) || h.marshalled.Load() != 0 {
			t.Errorf("got %v, marshalled %d times", err, h.marshalled.Load())
		}
	})
	t.Run("a function runs", func(t *testing.T) {
		srv, token, _ := leftBehind(t)
		d := departureOf(t, srv, token)
		begun, free := make(chan struct{}), make(chan struct{})
		defer close(free)
		if err := d.Session.Submit(func() { close(begun); <-free }); err != nil {
			t.Fatal(err)
		}
		<-begun
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := d.hold(ctx); !errors.Is(err, errAgain) {
			t.Errorf("got %v", err)
		}
	})
}

// departureOf is a session that is about to stand still.
func departureOf(t *testing.T, srv *Server, token codec.Token) *Departure {
	t.Helper()
	_, ln, ok := srv.tokens.FindSum(SumOf(token))
	if !ok {
		t.Fatal("no session")
	}
	return &Departure{Session: ln.s, ln: ln, most: 1 << 20, said: make(chan error, 1), done: make(chan struct{})}
}

// A client that goes while its session is carried may have had more than it said it has: it
// can say so where the session is then.
func TestCarriedSessionKnowsWhatItsPeerMayHave(t *testing.T) {
	w := newTown(t, 2, resumeConfig("tcp://127.0.0.1:0"), newHanded())
	p := &resumer{url: w.urls[0], ackEvery: 100}
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.ask(1, 3, "one")
	p.want(t, 2)
	p.close()
	waiting(t, w.servers[0], 1)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.urls[1], "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan bool, 1)
	w.mu.Lock()
	w.between = func(d *Departure) {
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset: behind a FIN the connection would stay
		_ = conn.Close()
		left <- hasNoLinks(w.servers[1])
	}
	w.mu.Unlock()
	hello := binary.BigEndian.AppendUint64(append([]byte{1, 0}, p.tokens[0]...), 0)
	frame, err := codec.Default().Append(nil, codec.Packet{Sub: SubHello, Body: hello})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	if !<-left {
		t.Fatal("the client does not go")
	}
	waitFor(t, "the takeover", func() bool { return w.servers[1].Stats().TakenOver == 1 })
	p.url = w.urls[1]
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.ask(1, 1, "two")
	p.want(t, 3)
	if p.resumed != 1 || string(p.got[2].Body) != "two" {
		t.Errorf("resumed %d times, got %s", p.resumed, show(p.got))
	}
}

// hasNoLinks waits until no connection of a server is without a session.
func hasNoLinks(srv *Server) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		n := 0
		for _, l := range *srv.loops.Load() {
			links := make(chan int)
			l.onLoop(func(l *loop) { links <- len(l.links) })
			n += <-links
		}
		if n == 0 {
			return true
		}
	}
	return false
}

// Frames that don't begin where the client is are refused, and what is no frame.
func TestFramesThatDoNotFitAreNotTaken(t *testing.T) {
	for name, spoil := range map[string]func(c *Transfer){
		"behind":   func(c *Transfer) { c.First++ },
		"before":   func(c *Transfer) { c.First-- },
		"no whole": func(c *Transfer) { c.Frames = append(c.Frames, 0, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, 2, resumeConfig("tcp://127.0.0.1:0"), newHanded())
			p := &resumer{urls: w.urls, ackEvery: 1}
			if err := p.connect(-1, -1); err != nil {
				t.Fatal(err)
			}
			p.ask(1, 3, "one")
			p.want(t, 2)
			p.close()
			w.mu.Lock()
			w.between = func(d *Departure) { spoil(&d.Transfer) }
			w.mu.Unlock()
			if err := p.connect(-1, -1); !errors.Is(err, errLost) {
				t.Errorf("got %v, want a new session", err)
			}
			p.close()
		})
	}
}

// While a Commit fails, because something of the session is in progress, a client that comes back gets
// the session: nobody finds that it has gone.
func TestFailingCommitHidesNoSession(t *testing.T) {
	srv, token, _ := leftBehind(t)
	release := departureOf(t, srv, token).Session.Hold()
	defer release()
	const rounds, batch = 100, 200
	hidden := 0
	for range rounds {
		ds := make(chan *Departure)
		cuts := make(chan bool, batch)
		go func() {
			for d := range ds {
				cuts <- d.Commit()
			}
		}()
		said := make(chan int)
		var all [batch]*Departure
		for i := range all {
			all[i] = departureOf(t, srv, token)
		}
		all[0].ln.home.onLoop(func(l *loop) {
			n := 0
			for i, d := range all {
				ds <- d
				for range 100 * i { // so that it meets every moment of Commit
					d.state.Load()
				}
				if !l.takeBack(d) {
					n++
				}
			}
			said <- n
		})
		hidden += <-said
		close(ds)
		for range batch {
			if <-cuts {
				t.Fatal("a session that owes an answer goes")
			}
		}
	}
	if hidden > 0 {
		t.Errorf("%d of %d that came back did not find a session that stayed", hidden, rounds*batch)
	}
}

// A client that comes back to the server that has just given its session away, and still has it, is waited
// for where the session goes to.
func TestClientThatComesBackBehindTheCut(t *testing.T) {
	w := newTown(t, 2, resumeConfig("tcp://127.0.0.1:0"), newHanded())
	p := &resumer{url: w.urls[0], ackEvery: 1}
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.ask(1, 1, "one")
	p.want(t, 1)
	p.close()
	waiting(t, w.servers[0], 1)
	back := &resumer{url: w.urls[0], ackEvery: 1, tokens: slices.Clone(p.tokens), received: p.received, sent: slices.Clone(p.sent)}
	began, taken, came := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	w.mu.Lock()
	w.cut = sync.OnceFunc(func() {
		go func() { came <- back.connect(-1, -1) }()
		select {
		case <-began:
		case err := <-came:
			t.Errorf("it is not waited for: %v", err)
			came <- err
		}
	})
	w.asked = func(to int) {
		if to == 0 {
			close(began)
			<-taken
		}
	}
	w.mu.Unlock()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.urls[1], "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hello := binary.BigEndian.AppendUint64(append([]byte{1, 0}, p.tokens[0]...), p.received)
	frame, err := codec.Default().Append(nil, codec.Packet{Sub: SubHello, Body: hello})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	welcome, err := codec.NewReader(conn, nil).Next() // its client does not get it
	close(taken)
	if err != nil || welcome.Sub != SubWelcome || welcome.Body[0] != 1 {
		t.Fatalf("got %v, %v, want a WELCOME", welcome, err)
	}
	if err := <-came; err != nil {
		t.Fatalf("the client that has come back: %v", err)
	}
	back.ask(1, 1, "two")
	back.want(t, 1)
	if back.resumed != 1 || w.servers[0].Stats().TakenOver != 1 || w.servers[1].Stats().TakenOver != 1 {
		t.Errorf("resumed %d times, %d and %d taken over", back.resumed, w.servers[0].Stats().TakenOver, w.servers[1].Stats().TakenOver)
	}
}
