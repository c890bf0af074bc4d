package engine

import (
	"bytes"
	"context"
	"fmt"

	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// A client may write any number of PINGs without reading: each gets its PONG.
func TestEveryPingIsAnsweredHoweverManyAreUnread(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			srv := serve(t, Config{Dispatch: mode, Limits: Limits{MaxOutbound: 16 << 10}, Socket: Socket{SocketSendBuffer: 8 << 10}}, &funcs{read: echo})
			c := dial(t, srv)
			const n = 40_000
			sent := make(chan error, 1)
			go func() {
				var b []byte
				for i := range n {
					b = codec.Packet{Main: 0, Sub: SubPing, Body: fmt.Appendf(nil, "%060d", i)}.Append(b)
				}
				_, err := c.Write(b)
				sent <- err
			}()
			waitFor(t, "reading to pause", func() bool { return pauses(srv) > 0 })
			for i := range n {
				c.expect(0, SubPong, fmt.Sprintf("%060d", i))
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		})
	}
}

func pauses(srv *Server) (n uint64) {
	for _, l := range srv.Stats().Loops {
		n += l.Pauses
	}
	return n
}

// PING, PONG and what a client may not send of Main 0.
func TestSystemFrames(t *testing.T) {
	srv := serve(t, Config{}, &funcs{read: echo})
	c := dial(t, srv)
	big := strings.Repeat("x", 64)
	c.send(0, SubPing, big)
	c.expect(0, SubPong, big)
	c.send(0, SubPing, big+"x")
	c.expectError(CodeBadBody, SubPing)
	c.send(0, SubPong, "unasked")
	c.send(0, SubError, "")
	c.expectError(CodeUnknownHandle, SubError)
	c.send(0, SubGoAway, "")
	c.expectError(CodeUnknownHandle, SubGoAway)
	c.send(0, 99, "")
	c.expectError(CodeUnknownHandle, 99)
	c.send(1, 1, "alive")
	c.expect(1, 1, "alive")
}

// GOAWAY reaches a session also when its outbox is full.
func TestGoAwayReachesAFullOutbox(t *testing.T) {
	d := newDesk(t, Config{Limits: Limits{MaxOutbound: 1 << 10}}, &funcs{})
	s, w := d.open(0)
	d.settleAll()
	for s.Send(1, 1, make([]byte, 100)) == nil {
	}
	d.settleAll()
	s.sendGoAway(time.Second)
	d.settleAll()
	w.room = -1
	s.canWrite()
	d.settleAll()
	if !bytes.HasSuffix(w.got, frame(0, SubGoAway, "\x00\x00\x03\xe8")) {
		t.Errorf("no GOAWAY in %d bytes", len(w.got))
	}
}

// Without system frames a session closes without a word, and for the reason it has.
func TestReasonsWithoutSystemFrames(t *testing.T) {
	for _, tc := range []struct {
		why  Reason
		send []byte
		cfg  Config
	}{
		{ReasonBadFrame, []byte{0, 0, 0, 1}, Config{}},
		{ReasonPanic, frame(1, 9, ""), Config{}},
		{ReasonRefused, frame(1, 8, ""), Config{}},
		{ReasonFirstFrame, nil, Config{Timeouts: Timeouts{FirstFrameTimeout: 50 * time.Millisecond}}},
		{ReasonFrame, []byte{0, 0}, Config{Timeouts: Timeouts{FrameTimeout: 50 * time.Millisecond}}},
		{ReasonIdle, frame(1, 1, ""), Config{Timeouts: Timeouts{IdleTimeout: 50 * time.Millisecond}}},
	} {
		t.Run(tc.why.String(), func(t *testing.T) {
			reasons := make(chan Reason, 1)
			tc.cfg.NoSystemFrames = true
			srv := serve(t, tc.cfg, &funcs{
				read: func(s *Session, p codec.Packet) {
					switch p.Sub {
					case 8:
						s.ReplyError(p, CodeBadBody, "no")
					case 9:
						panic("on purpose")
					}
				},
				close: func(_ *Session, why Reason) { reasons <- why },
			})
			c := dial(t, srv)
			c.Write(tc.send)
			c.expectEOF()
			if got := <-reasons; got != tc.why {
				t.Errorf("got %v, want %v", got, tc.why)
			}
			if st := srv.Stats(); st.Errors != 0 || st.Closes[tc.why] != 1 {
				t.Errorf("%d errors sent, closes %v", st.Errors, st.Closes)
			}
		})
	}
}

// Main 0 is the handler's where there are no system frames.
func TestMainZeroWithoutSystemFrames(t *testing.T) {
	for _, mode := range dispatches {
		srv := serve(t, Config{Dispatch: mode, NoSystemFrames: true, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
		c := dial(t, srv)
		for sub := range uint16(6) {
			c.send(0, sub, "mine")
			c.expect(0, sub, "mine")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Error(err)
		}
		c.expectEOF() // a drain closes without GOAWAY
	}
}

// An ERROR's text is cut where frames are small.
func TestErrorTextIsCutToTheFrame(t *testing.T) {
	srv := serve(t, Config{MaxFrame: 20}, &funcs{read: func(s *Session, p codec.Packet) {
		if err := s.ReplyError(p, CodeConflict, "ééééééééééééééééééé"); err != nil {
			t.Error(err)
		}
	}})
	c := dial(t, srv)
	c.send(1, 1, "")
	p, err := c.read()
	if err != nil || string(p.Body[6:]) != "ééééé" {
		t.Fatalf("got %q, %v", p.Body, err)
	}
	c.Write([]byte{0, 0, 1, 0})
	c.expectError(CodeBadFrame, 0)
	c.expectEOF()
}
