package engine

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"millrace/codec"
	"millrace/engine/internal/inbox"
	"millrace/engine/internal/netio"
)

// Clocks do not count the time in which the server owes the session something, or does
// not read from it.
func TestClocksStandStillWhileTheServerOwes(t *testing.T) {
	const tick, idle = 50 * time.Millisecond, time.Second
	for _, how := range []string{"handler", "hold", "unread", "paused"} {
		still(t, how, func(t *testing.T) {
			step := make(chan bool)
			var release func()
			d := newDesk(t, Config{Dispatch: Ordered, Timeouts: Timeouts{IdleTimeout: idle, FirstFrameTimeout: Off}}, &funcs{read: func(s *Session, p codec.Packet) {
				switch how {
				case "handler":
					<-step
				case "hold":
					release = s.Hold()
				}
				s.Reply(p, p.Body)
			}})
			s, w := d.open(-1)
			d.settleAll()
			d.pass(idle*4/10, tick)
			if how == "unread" {
				w.room = 0
			}
			d.l.received(s, frame(1, 1, "x"))
			if how == "paused" {
				d.settleAll()
				d.l.pause(s, inbox.PauseIn)
			}
			if how != "handler" {
				d.settleAll()
			}
			d.pass(idle*19/10, tick) // ends within the second period
			switch how {
			case "handler":
				step <- true
			case "hold":
				release()
			case "unread":
				w.room = -1
				s.canWrite()
			case "paused":
				d.l.unpause(s)
			}
			d.settleAll()
			if !s.Connected() {
				t.Fatalf("closed while the server owed: %v", Reason(s.closing.Load()))
			}
			d.pass(idle*8/10, tick)
			if !s.Connected() {
				t.Errorf("closed early: %v", Reason(s.closing.Load()))
			}
			d.pass(idle*4/10, tick)
			d.settleAll()
			if got := Reason(s.closing.Load()); got != ReasonIdle || !w.finned {
				t.Errorf("got reason %v, FIN %v, want idle_timeout and a FIN", got, w.finned)
			}
		})
	}
}

// Each timeout closes with its reason, an ERROR about nothing and a FIN, not before its
// time and not much after.
func TestTimeouts(t *testing.T) {
	const d = 1500 * time.Millisecond // which a machine that stands still for a while keeps
	hello := frame(1, 1, "hello")
	for _, tc := range []struct {
		name string
		cfg  Config
		why  Reason
		drip []byte // a byte each 20 ms, after one whole frame unless first
		bare bool
	}{
		{"silent from the start", Config{Timeouts: Timeouts{FirstFrameTimeout: d}}, ReasonFirstFrame, nil, true},
		{"half a first frame", Config{Timeouts: Timeouts{FirstFrameTimeout: d}}, ReasonFirstFrame, hello[:10], true},
		{"half a frame", Config{Timeouts: Timeouts{FrameTimeout: d}}, ReasonFrame, hello[:10], false},
		{"half a length", Config{Timeouts: Timeouts{FrameTimeout: d}}, ReasonFrame, hello[:2], false},
		{"idle", Config{Timeouts: Timeouts{IdleTimeout: d}}, ReasonIdle, nil, false},
		{"half a frame is idle too", Config{Timeouts: Timeouts{IdleTimeout: d, FrameTimeout: Off}}, ReasonIdle, hello[:11], false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			reasons := make(chan Reason, 1)
			srv := serve(t, tc.cfg, &funcs{read: echo, close: func(_ *Session, why Reason) { reasons <- why }})
			began := time.Now()
			c := dial(t, srv)
			if !tc.bare {
				c.Write(hello)
				c.expect(1, 1, "hello")
			}
			go func() {
				for _, b := range tc.drip {
					c.Write([]byte{b})
					time.Sleep(20 * time.Millisecond)
				}
			}()
			c.expectError(CodeTimeout, 0)
			c.expectEOF()
			if took := time.Since(began); took < d-5*time.Millisecond || took > 4*d {
				t.Errorf("closed after %v, want %v", took, d)
			}
			if got := <-reasons; got != tc.why {
				t.Errorf("got %v, want %v", got, tc.why)
			}
		})
	}
}

// A PONG is a frame: a client that answers heartbeats is not idle, one that does not is.
func TestHeartbeat(t *testing.T) {
	srv := serve(t, Config{Heartbeat: 250 * time.Millisecond, Timeouts: Timeouts{IdleTimeout: 2 * time.Second}}, &funcs{read: echo})
	alive, dead := dial(t, srv), dial(t, srv)
	began := time.Now()
	for time.Since(began) < 4*time.Second {
		alive.expect(0, SubPing, "")
		alive.send(0, SubPong, "")
	}
	alive.send(1, 1, "still here")
	for {
		p, err := alive.read()
		if err != nil {
			t.Fatal(err)
		}
		if p.Main == 1 {
			break
		}
	}
	pings := 0
	for {
		p, err := dead.read()
		if err != nil {
			t.Fatal(err)
		}
		if p.Sub == SubError {
			break
		}
		pings++
	}
	if pings < 3 || pings > 20 {
		t.Errorf("%d PINGs in 2 s of silence, one each 250 ms is due", pings)
	}
}

// A drain does not wait for the rest of a frame longer than the frame has.
func TestDrainStillTimesHalfAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Config{Timeouts: Timeouts{FrameTimeout: time.Second}}, &funcs{})
		s, w := d.open(-1)
		d.settleAll()
		d.l.received(s, []byte{0, 0})
		d.drainFrom.Store(d.now())
		s.goAway.Store(1)
		d.pass(900*time.Millisecond, 100*time.Millisecond)
		if !s.Connected() {
			t.Error("closed with half a frame before its time")
		}
		d.pass(300*time.Millisecond, 100*time.Millisecond)
		d.settleAll()
		if got := Reason(s.closing.Load()); got != ReasonFrame || !w.finned {
			t.Errorf("got %v, FIN %v", got, w.finned)
		}
	})
}

// A peer that has sent its FIN may take its time to read what it is owed.
func TestHalfClosedPeerMayReadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Config{Timeouts: Timeouts{Linger: time.Second}}, &funcs{read: echo})
		s, w := d.open(10)
		d.settleAll()
		body := string(bytes.Repeat([]byte("x"), 1000))
		d.l.received(s, frame(1, 1, body))
		d.l.disconnected(s, netio.EndFIN)
		d.settleAll()
		if s.Connected() || w.closed {
			t.Fatalf("connected %v, closed %v: want it to close and wait for the peer", s.Connected(), w.closed)
		}
		d.pass(10*time.Second, 250*time.Millisecond)
		if w.closed {
			t.Fatal("cut off while the peer did not read")
		}
		w.give(2000)
		d.settleAll()
		if want := frame(1, 1, body); !bytes.Equal(w.got, want) || !w.closed {
			t.Errorf("got %d of %d bytes, closed %v", len(w.got), len(want), w.closed)
		}
		s, w = d.open(10)
		d.settleAll()
		d.l.received(s, frame(1, 1, body))
		d.l.disconnected(s, netio.EndFIN)
		d.settleAll()
		d.pass(finStall+time.Second, 250*time.Millisecond)
		if !w.closed {
			t.Error("a peer that never reads was not cut off")
		}
	})
}

// A close waits for what is unsent as long as the peer takes something, and Linger after.
func TestCloseWaitsLingerForWhatIsUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Config{Timeouts: Timeouts{Linger: time.Second}}, &funcs{})
		s, w := d.open(0)
		d.settleAll()
		s.Send(1, 1, make([]byte, 10_000))
		s.Close()
		d.settleAll()
		for range 5 {
			d.pass(800*time.Millisecond, 100*time.Millisecond)
			w.give(1000)
			d.turns()
		}
		if w.closed || w.finned {
			t.Fatal("cut off while the peer read")
		}
		d.pass(1200*time.Millisecond, 100*time.Millisecond)
		if !w.closed || len(w.got) != 5000 {
			t.Errorf("closed %v after %d bytes, want true and 5000", w.closed, len(w.got))
		}
	})
}

// After the FIN a megabyte of input is thrown away; behind that the peer is not read
// from, and not reset either, until Linger has gone.
func TestLingerThrowsAwayAMegabyteAndResetsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pausable := range []bool{true, false} {
			d := newDesk(t, Config{Timeouts: Timeouts{Linger: time.Second}}, &funcs{})
			s, w := d.open(-1)
			w.nomask = !pausable
			d.settleAll()
			d.l.received(s, []byte{0, 0, 0, 0}) // a bad frame
			d.settleAll()
			if !w.finned || w.closed {
				t.Fatalf("FIN %v, closed %v", w.finned, w.closed)
			}
			for range lingerExcess / (64 << 10) {
				d.l.received(s, make([]byte, 64<<10))
			}
			if w.masked || w.closed {
				t.Errorf("masked %v, closed %v within the megabyte", w.masked, w.closed)
			}
			d.l.received(s, make([]byte, 64<<10))
			if pausable && (!w.masked || w.closed) || !pausable && !w.closed {
				t.Errorf("pausable %v: masked %v, closed %v", pausable, w.masked, w.closed)
			}
			d.pass(1200*time.Millisecond, 100*time.Millisecond)
			if !w.closed {
				t.Error("still there after Linger")
			}
		}
	})
}

// A session that was paused for the memory budget reads again once it holds nothing,
// also while others keep the budget exhausted and it has nothing to send.
func TestStarvedSessionReadsAgain(t *testing.T) {
	d := newDesk(t, Config{Dispatch: Ordered, Limits: Limits{MemoryBudget: 1 << 16, MaxOutbound: 1 << 20}}, &funcs{})
	hog, _ := d.open(0)
	d.settleAll()
	hog.Send(1, 1, make([]byte, 60_000))
	hog.Send(1, 1, make([]byte, 60_000))
	d.settleAll()
	s, w := d.open(-1)
	d.settleAll()
	d.l.received(s, frame(1, 1, "one way"))
	if !w.masked {
		t.Fatal("not paused")
	}
	d.settleAll()
	d.sweepNow()
	d.settleAll()
	if w.masked || d.Stats().Starving != 1 { // the hog
		t.Errorf("masked %v, %d starving", w.masked, d.Stats().Starving)
	}
}

// A drain waits until its end for a half-closed peer that does not read: what it loses
// then is counted.
func TestDrainWaitsForAHalfClosedPeerThatPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Config{Timeouts: Timeouts{Linger: time.Second}}, &funcs{read: echo})
		s, w := d.open(10)
		d.settleAll()
		body := string(bytes.Repeat([]byte("x"), 1000))
		d.l.received(s, frame(1, 1, body))
		d.l.disconnected(s, netio.EndFIN)
		d.settleAll()
		d.draining.Store(true)
		d.pass(2*finStall, 250*time.Millisecond)
		if w.closed {
			t.Fatal("cut off in the drain")
		}
		if _, n := s.outstanding(); n != len(frame(1, 1, body))-10 {
			t.Errorf("%d bytes are outstanding", n)
		}
		w.give(2000)
		d.settleAll()
		if want := frame(1, 1, body); !bytes.Equal(w.got, want) || !w.closed {
			t.Errorf("got %d of %d bytes, closed %v", len(w.got), len(want), w.closed)
		}
	})
}
