package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"millrace/codec"
)

// leftBehind is a session that was left by its client, and its token.
func leftBehind(t *testing.T) (srv *Server, token codec.Token, p *resumer) {
	t.Helper()
	srv = newTown(t, 1, resumeConfig("tcp://127.0.0.1:0"), newHanded()).servers[0]
	p = &resumer{url: srv.URLs()[0], ackEvery: 1}
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.ask(1, 1, "one")
	p.want(t, 1)
	p.close()
	waiting(t, srv, 1)
	return srv, codec.Token(p.tokens[0]), p
}

// stands submits something to a session that another server is taking, and reports an error unless
// it waits until the session goes on here.
func stands(t *testing.T, d *Departure) {
	t.Helper()
	ran := make(chan struct{})
	if err := d.Session.Submit(func() { close(ran) }); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	for range 3 { // what was under way on the loop and the workers is behind it then
		d.ln.home.onLoop(func(*loop) { done <- struct{}{} })
		<-done
	}
	select {
	case <-ran:
		t.Error("something of the session runs behind MarshalSession")
	case <-time.After(50 * time.Millisecond):
	}
	d.Cancel()
	select {
	case <-ran:
	case <-time.After(time.Minute):
		t.Error("the session does not go on")
	}
}

// A session that stands still for one server does so whatever others ask for it.
func TestSessionStandsStillForOne(t *testing.T) {
	ctx := context.Background()
	t.Run("another asks", func(t *testing.T) {
		srv, token, p := leftBehind(t)
		d, err := srv.Depart(ctx, SumOf(token), p.received, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := srv.Depart(ctx, SumOf(token), p.received, 1<<20); !errors.Is(err, ErrBeingTaken) {
			t.Errorf("got %v, want ErrBeingTaken", err)
		}
		stands(t, d)
	})
	t.Run("an older one gives up", func(t *testing.T) {
		srv, token, p := leftBehind(t)
		older, err := srv.Depart(ctx, SumOf(token), p.received, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.connect(-1, -1); err != nil { // its client comes back
			t.Fatal(err)
		}
		p.ask(1, 1, "two")
		p.want(t, 2)
		p.close()
		waiting(t, srv, 1)
		var d *Departure
		for _, token := range p.tokens { // the present one is among them
			if d, err = srv.Depart(ctx, SumOf(codec.Token(token)), p.received, 1<<20); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		older.Cancel()
		stands(t, d)
	})
}

// What comes to a session between MarshalSession and Commit, and is not in what it takes along,
// keeps it: a function that was taken runs, and changes the session where it stays.
func TestSessionStaysWithWhatIsUnderWay(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]func(s *Session, ran chan struct{}){
		"a function": func(s *Session, ran chan struct{}) {
			if err := s.Submit(func() { close(ran) }); err != nil {
				t.Error(err)
			}
		},
		"an answer": func(s *Session, ran chan struct{}) { s.Hold(); close(ran) },
	} {
		t.Run(name, func(t *testing.T) {
			srv, token, p := leftBehind(t)
			d, err := srv.Depart(ctx, SumOf(token), p.received, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			ran := make(chan struct{})
			c(d.Session, ran)
			if d.Commit() {
				t.Fatal("the session goes")
			}
			select {
			case <-ran:
			case <-time.After(time.Minute):
				t.Fatal("the session does not go on")
			}
			if err := d.Session.Push(3, 1, []byte("here")); err != nil {
				t.Error(err)
			}
			if err := p.connect(-1, -1); err != nil {
				t.Fatal(err)
			}
			p.ask(1, 1, "two")
			p.want(t, 3)
		})
	}
}
