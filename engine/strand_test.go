package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"runtime"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/strand"
)

// Frames that reach a session which has just ended count as dropped, and not twice
// against the memory budget.
func TestFramesBehindTheEndAreDroppedAndNotCounted(t *testing.T) {
	d := newDesk(t, Config{Dispatch: Ordered}, &funcs{})
	s, _ := d.open(-1)
	d.settleAll()
	s.Close()
	waitFor(t, "the strand to end", func() bool { return s.in.State() == strand.Done })
	d.l.queue(s, append(frame(1, 1, "late"), frame(1, 1, "later")...), nil)
	if got := d.Stats(); got.Memory != 0 || got.Dropped != 2 {
		t.Errorf("got %d buffered, %d dropped, want 0 and 2", got.Memory, got.Dropped)
	}
	if got := s.Stats().Pending; got != 0 {
		t.Errorf("%d bytes pending, want 0", got)
	}
}

// What a session's close leaves unhandled is given back in full, also a block that was
// handled in part.
func TestCloseInTheMiddleOfABlockGivesTheRestBack(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			reads := 0
			d := newDesk(t, Config{Dispatch: mode}, &funcs{read: func(s *Session, p codec.Packet) {
				if reads++; reads == 3 {
					s.Close()
				}
			}})
			s, w := d.open(-1)
			d.settleAll()
			var b []byte
			for range 10 {
				b = append(b, frame(1, 1, "body")...)
			}
			d.l.received(s, append(b, 0, 0, 0)) // and the start of one more
			d.settleAll()
			if !w.finned {
				t.Fatal("no FIN")
			}
			d.l.disconnected(s, netio.EndFIN) // the peer's
			d.settleAll()
			st := d.Stats()
			if reads != 3 || st.Dropped != 7 || st.Memory != 0 || d.table.count() != 0 {
				t.Errorf("%d reads, %d dropped, %d buffered, %d sessions; want 3, 7, 0, 0", reads, st.Dropped, st.Memory, d.table.count())
			}
		})
	}
}

// The end of an inline turn takes nothing away from the worker that goes on with the
// strand: its callback's sends are answers, never refused.
func TestWorkerBehindAnInlineTurnMaySend(t *testing.T) {
	const limit = 64 << 10
	refused := 0
	done := make(chan bool, 1)
	body := make([]byte, 1<<10)
	d := newDesk(t, Config{Dispatch: Inline, Limits: Limits{MaxOutbound: limit}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.Submit(func() {
			for range limit*3/2/len(body) + 1 {
				if s.Send(1, 1, body) != nil {
					refused++
				}
			}
			done <- true
		})
	}})
	for range 300 {
		s, _ := d.open(0)
		d.l.received(s, frame(1, 1, ""))
		<-done
		d.l.abort(s, ReasonStopped)
		d.settleAll()
	}
	if refused > 0 {
		t.Errorf("%d sends refused in callbacks, want 0", refused)
	}
}

// A strand that must wait for its outbox waits also where frames are run inline.
func TestInlineTurnWaitsForTheOutbox(t *testing.T) {
	const limit = 4 << 10
	reads := 0
	d := newDesk(t, Config{Dispatch: Inline, Limits: Limits{MaxOutbound: limit}, MaxFrame: 1 << 10}, &funcs{read: func(s *Session, p codec.Packet) {
		reads++
		for i := range limit / 1000 {
			if err := s.Send(1, 1, make([]byte, 1000)); err != nil {
				t.Errorf("read %d, send %d: %v", reads, i, err)
			}
		}
	}})
	s, w := d.open(0)
	d.settleAll()
	for range 8 { // each for itself, as if reading could not be paused
		d.l.received(s, frame(1, 1, ""))
	}
	d.settleAll()
	if reads >= 8 {
		t.Errorf("%d reads while nothing was taken", reads)
	}
	for range 100 {
		w.give(1 << 10)
		d.settleAll()
	}
	if want := 8 * (limit / 1000) * 1008; reads != 8 || len(w.got) != want {
		t.Errorf("%d reads, %d bytes; want 8 and %d", reads, len(w.got), want)
	}
}

// While an answer is under way, on whatever side of the strand, the loop sees that the
// session is owed something: otherwise a FIN or a drain would cut the answer off.
func TestAnAnswerUnderWayIsAlwaysSeen(t *testing.T) {
	n := 3000
	if *long {
		n = 100_000
	}
	for _, how := range []string{"reply", "hold", "release"} {
		t.Run(how, func(t *testing.T) {
			d := newDesk(t, Config{Dispatch: Ordered}, &funcs{read: func(s *Session, p codec.Packet) {
				switch how {
				case "reply":
					s.Reply(p, p.Body)
				case "hold":
					s.Hold()
				case "release":
					release := s.Hold()
					go func() {
						s.Reply(p, nil)
						release()
					}()
				}
			}})
			s, _ := d.open(-1)
			d.settleAll()
			for range n {
				d.l.queue(s, frame(1, 1, "x"), nil)
				spins := 0
				yield := func() { // where there is one processor the worker gets no other chance for 10 ms
					if spins++; spins%64 == 0 {
						runtime.Gosched()
					}
				}
				for end := false; !end; yield() { // no turn is run, so a reply stays staged
					end = s.out.Size() > 0 || (how == "hold" && s.held.Load() > 0)
					if !d.l.owes(s) || !d.l.busy(s) {
						t.Fatal("not seen")
					}
				}
				if how == "hold" {
					s.held.Add(-1)
				}
				for ; d.l.busy(s); yield() {
					d.turn()
				}
			}
		})
	}
}

// What OnSocketFin sends reaches the peer, also when nothing was owed before it.
func TestOnSocketFinMaySend(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			srv := serve(t, Config{Dispatch: mode}, &funcs{read: echo, fin: func(s *Session) {
				if err := s.Send(9, 9, []byte("goodbye")); err != nil {
					t.Error(err)
				}
				release := s.Hold()
				time.AfterFunc(20*time.Millisecond, func() {
					s.Send(9, 9, []byte("late"))
					release()
				})
			}})
			for range 20 {
				c := dial(t, srv)
				c.send(1, 1, "x")
				c.expect(1, 1, "x")
				c.Conn.(*net.TCPConn).CloseWrite()
				c.expect(9, 9, "goodbye")
				c.expect(9, 9, "late")
				c.expectEOF()
			}
		})
	}
}

// A FIN behind a callback that takes long ends groups and the context of the input at
// once, but not while a packet still waits in front of it.
func TestAFINIsToldBesideALongCallback(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames int // of which the first one blocks
		early  bool
	}{{"alone", 1, true}, {"behind another packet", 2, false}} {
		t.Run(c.name, func(t *testing.T) {
			let := make(chan struct{})
			inside := make(chan struct{}, 2)
			told := make(chan *Session, 2)
			h := &funcs{}
			h.accept = func(s *Session) {
				if _, err := s.Server().Group("g").Join(s); err != nil {
					t.Error(err)
				}
				context.AfterFunc(s.InputContext(), func() { told <- s })
			}
			h.read = func(s *Session, p codec.Packet) {
				inside <- struct{}{}
				<-let
				s.Reply(p, p.Body)
			}
			srv := serve(t, Config{Dispatch: Ordered}, h)
			cl := dial(t, srv)
			cl.Write(bytes.Repeat(frame(1, 4, "x"), c.frames))
			<-inside
			cl.Conn.(*net.TCPConn).CloseWrite()
			if c.early {
				select {
				case <-told:
				case <-time.After(time.Minute):
					t.Fatal("not told")
				}
				if n := srv.Group("g").Len(); n != 0 {
					t.Errorf("%d members", n)
				}
			} else {
				select {
				case <-told:
					t.Fatal("told with a packet in front")
				case <-time.After(100 * time.Millisecond):
				}
				if n := srv.Group("g").Len(); n != 1 {
					t.Errorf("%d members", n)
				}
			}
			close(let)
			for range c.frames {
				cl.expect(1, 4, "x")
			}
			cl.expectEOF()
			if n := srv.Group("g").Len(); n != 0 {
				t.Errorf("%d members after the end", n)
			}
		})
	}
}

func TestGoAwayWithoutADeadline(t *testing.T) {
	srv := serve(t, Config{}, &funcs{read: echo})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	go srv.Stop(context.Background())
	p, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	if ms := binary.BigEndian.Uint32(p.Body); ms != 1<<32-1 {
		t.Errorf("grace of %d ms, and there is no deadline", ms)
	}
}

// An ERROR goes out also where its six bytes are more than the largest frame.
func TestErrorBesideATinyMaxFrame(t *testing.T) {
	srv := serve(t, Config{MaxFrame: 4}, &funcs{read: func(s *Session, p codec.Packet) { s.ReplyError(p, CodeUnknownHandle, "no") }})
	c := dial(t, srv)
	c.send(9, 9, "")
	p, err := c.read()
	if err != nil || p.Main != 0 || p.Sub != SubError || len(p.Body) != 6 {
		t.Errorf("got %v, %v", p, err)
	}
}

// A strand tells how far its batch is, from the beginning of each.
func TestStrandCountsItsSteps(t *testing.T) {
	var steps []uint32
	d := newDesk(t, Config{Dispatch: Ordered}, &funcs{read: func(s *Session, _ codec.Packet) {
		steps = append(steps, s.step.Load())
	}})
	s, _ := d.open(-1)
	d.settleAll()
	for range 2 {
		steps = nil
		d.l.queue(s, bytes.Repeat(frame(1, 1, ""), 3*stepPackets), nil)
		d.settleAll()
		if len(steps) != 3*stepPackets || steps[0] != 0 || steps[len(steps)-1] != 2 {
			t.Errorf("steps %v", steps)
		}
	}
}
