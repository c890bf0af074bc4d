package engine

import (
	"testing"
	"time"

	"millrace/engine/internal/netio"
)

// A peer is dead when it has been sent to in vain for UserTimeout: not sooner, and not
// when it acknowledges or has been sent nothing. The kernel is asked only when nothing
// else tells that the peer lives.
func TestDeadPeers(t *testing.T) {
	const limit = time.Second
	open := func(t *testing.T) (*desk, *Session, *fakeWire) {
		d := newDesk(t, Config{Socket: Socket{UserTimeout: limit}, Dispatch: Inline}, &funcs{read: echo})
		s, w := d.open(-1)
		d.pass(100*time.Millisecond, 50*time.Millisecond)
		return d, s, w
	}
	send := func(d *desk, s *Session) {
		s.Send(1, 1, nil)
		d.turns()
	}
	still(t, "in vain", func(t *testing.T) {
		d, s, w := open(t)
		w.acks.Owed, w.acks.Missed, w.acks.Ago = true, true, time.Hour // the last acknowledgement was for something earlier
		send(d, s)
		d.pass(900*time.Millisecond, 50*time.Millisecond)
		if w.closed {
			t.Fatal("closed before its time")
		}
		d.pass(200*time.Millisecond, 50*time.Millisecond)
		if !w.closed || !w.wasReset || Reason(s.closing.Load()) != ReasonPeerReset {
			t.Errorf("closed %v, reset %v, %v", w.closed, w.wasReset, Reason(s.closing.Load()))
		}
	})
	still(t, "an acknowledgement counts", func(t *testing.T) {
		d, s, w := open(t)
		w.acks.Owed, w.acks.Missed = true, true
		send(d, s)
		d.pass(5*limit, 10*time.Millisecond)
		if w.closed {
			t.Error("closed, though the last acknowledgement is new")
		}
		if w.looks > 5*looksPerTimeout {
			t.Errorf("%d looks in five times UserTimeout", w.looks)
		}
	})
	still(t, "slow is not dead", func(t *testing.T) {
		d, s, w := open(t)
		w.acks.Owed, w.acks.Ago = true, time.Hour
		send(d, s)
		d.pass(5*limit, 50*time.Millisecond)
		if w.closed {
			t.Error("closed, though nothing was asked for in vain")
		}
	})
	still(t, "idle ones are not looked at", func(t *testing.T) {
		d, s, w := open(t)
		d.pass(5*limit, 50*time.Millisecond)
		if w.looks != 0 {
			t.Errorf("%d looks at a session that was sent nothing", w.looks)
		}
		send(d, s)
		d.pass(5*limit, 50*time.Millisecond)
		if w.looks != 1 {
			t.Errorf("%d looks, want 1: then all was acknowledged", w.looks)
		}
	})
	still(t, "who sends lives", func(t *testing.T) {
		d, s, w := open(t)
		w.acks.Owed, w.acks.Missed, w.acks.Ago = true, true, time.Hour
		for range 100 {
			d.l.received(s, frame(1, 1, ""))
			d.pass(50*time.Millisecond, 50*time.Millisecond)
		}
		if w.looks != 0 || w.closed {
			t.Errorf("%d looks, closed %v", w.looks, w.closed)
		}
	})
	still(t, "behind its FIN", func(t *testing.T) {
		d, s, w := open(t)
		w.acks.Owed, w.acks.Missed, w.acks.Ago = true, true, time.Hour
		release := s.Hold() // an answer is still owed
		send(d, s)
		d.l.disconnected(s, netio.EndFIN)
		d.settleAll()
		if s.rd.life != lifeFin {
			t.Fatalf("life %d", s.rd.life)
		}
		d.pass(1100*time.Millisecond, 50*time.Millisecond)
		if !w.closed {
			t.Error("not closed")
		}
		release()
	})
}

// BenchmarkSweep is a sweep over 10,000 sessions.
func BenchmarkSweep(b *testing.B) {
	for _, kind := range []string{"idle", "written"} {
		b.Run(kind, func(b *testing.B) {
			srv, first, _ := loose(b, &funcs{})
			l := first.loop
			srv.table = newTable(10_000)
			for range 9_999 {
				s := &Session{srv: srv, loop: l, conn: &takesAll{}}
				l.accept(s)
			}
			waitFor(b, "the accepts", func() bool { return first.in.Quiet() && srv.pool.Stats().Sessions == 0 })
			b.ReportAllocs()
			for b.Loop() {
				if kind == "written" {
					for _, s := range l.sessions {
						l.write(s, nil)
					}
				}
				srv.epoch = srv.epoch.Add(-2 * time.Second)
				l.sweep(true)
				for l.sweeping {
					l.sweep(false)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(l.sessions)), "ns/session")
		})
	}
}
