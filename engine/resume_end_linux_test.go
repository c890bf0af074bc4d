package engine

import (
	"context"
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A client that reads and never acknowledges is sent no more than the ring holds, and gets
// ERROR 5 when it stands still; its session goes on when it comes back.
func TestWhoNeverAcknowledgesStandsStill(t *testing.T) {
	h := newResumable()
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.ResumeBytes, cfg.FrameTimeout = 16<<10, 300*time.Millisecond
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	for range 100 {
		p.ask(1, 1, strings.Repeat("x", 1000))
	}
	p.end(t)
	last := p.got[len(p.got)-1]
	if last.Main != 0 || last.Sub != SubError || binary.BigEndian.Uint16(last.Body) != uint16(CodeTimeout) {
		t.Errorf("the last frame is %d/%d", last.Main, last.Sub)
	}
	if n := (len(p.got) - 1) * 1008; n > 16<<10 || n < 14<<10 {
		t.Errorf("%d bytes were sent without an acknowledgement", n)
	}
	for len(p.got) < 101 {
		p.ackEvery = 8
		p.reconnect(t)
		p.want(t, 101)
	}
	if n := h.ran.Load(); n != 100 {
		t.Errorf("%d requests ran", n)
	}
}

// A slow consumer, a dead line and a timeout are breaks: the session waits.
func TestSlowConsumersAndTimeoutsAreBreaks(t *testing.T) {
	h := newResumable()
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.Store(x) }
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.MaxOutbound, cfg.ResumeBytes, cfg.FrameTimeout, cfg.IdleTimeout = 64<<10, 256<<10, 200*time.Millisecond, 400*time.Millisecond
	srv := serve(t, cfg, h)

	p := hello(t, srv)
	p.conn.Write(frame(1, 1, "half")[:9])
	p.end(t) // --frame-timeout
	waiting(t, srv, 1)
	p.reconnect(t)
	p.end(t) // --idle-timeout
	waiting(t, srv, 1)
	if len(p.got) != 2 || srv.Stats().Closes[ReasonFrame] != 1 || srv.Stats().Closes[ReasonIdle] != 1 {
		t.Errorf("got %s", show(p.got))
	}
	p.reconnect(t)
	x := s.Load()
	sent := 0
	for end := time.Now().Add(20 * time.Second); srv.Stats().Closes[ReasonSlowConsumer] == 0; {
		if x.Push(2, 4, make([]byte, 8<<10)) == nil {
			sent++
		}
		if time.Now().After(end) {
			t.Fatal("no slow consumer")
		}
		time.Sleep(time.Millisecond)
	}
	p.end(t)
	p.ackEvery = 4
	p.reconnect(t)
	p.want(t, 2+sent)
}

// Sessions that wait count in the limits, and one that comes back takes its own place. When
// the server stops they end at once, and are no loss.
func TestWaitingSessionsKeepTheirPlaces(t *testing.T) {
	ended := make(chan Reason, 10)
	h := &funcs{read: echo, close: func(_ *Session, why Reason) { ended <- why }}
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.MaxConns, cfg.MaxConnsPerIP = 2, 2
	srv := serve(t, cfg, h)
	a, b := hello(t, srv), hello(t, srv)
	a.close()
	waiting(t, srv, 1)
	c := dial(t, srv)
	c.send(0, SubHello, "\x01\x00")
	c.expectError(CodeLimit, 0)
	c.expectEOF()
	c = dial(t, srv)
	c.send(1, 1, "no HELLO")
	c.expectError(CodeLimit, 0)
	a.reconnect(t)
	a.ask(1, 1, "here again")
	a.want(t, 1)
	b.close()
	waiting(t, srv, 1)
	go func() { a.end(t) }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := srv.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if x, y := <-ended, <-ended; x != ReasonDrain || y != ReasonDrain {
		t.Errorf("ended for %v and %v", x, y)
	}
	if n := srv.perIP.Len(); n != 0 {
		t.Errorf("%d addresses still counted", n)
	}
}

// The server acknowledges 64 frames at once, before it answers the next, and fewer within
// about a second.
func TestServerAcknowledges(t *testing.T) {
	srv := serve(t, resumeConfig("tcp://127.0.0.1:0"), newResumable())
	c := dial(t, srv)
	c.send(0, SubHello, "\x01\x00")
	c.read()
	for n, acked := 1, 0; n <= 130; n++ {
		c.send(1, 1, "x")
		for {
			p, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			if p.Main == 1 {
				break
			}
			if p.Sub != SubAck {
				t.Fatalf("%v", p)
			}
			acked = int(binary.BigEndian.Uint64(p.Body))
		}
		if n-acked >= 64 {
			t.Fatalf("%d frames read and answered, %d acknowledged", n, acked)
		}
	}
	for {
		p, err := c.read()
		if err != nil || p.Sub != SubAck {
			t.Fatalf("%v %v", p, err)
		}
		if binary.BigEndian.Uint64(p.Body) == 130 {
			break
		}
	}
}
