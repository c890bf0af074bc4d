package engine

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

var badLength = []byte{0xff, 0xff, 0xff, 0xff}

// split cuts what a wire got into packets.
func split(t testing.TB, b []byte) (ps []codec.Packet) {
	t.Helper()
	for len(b) > 0 {
		p, size, missing, err := codec.Default().Decode(b)
		if err != nil || size == 0 || missing > 0 {
			t.Fatalf("%d bytes that are no frame: %v", len(b), err)
		}
		ps = append(ps, p)
		b = b[size:]
	}
	return ps
}

// The ERROR about a bad frame is the last that its session is sent, whatever others send
// to it or to all at that moment.
func TestNothingIsSentBehindTheLastError(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			d := newDesk(t, Config{Dispatch: mode, Timeouts: Timeouts{FirstFrameTimeout: Off}, Limits: Limits{MaxOutbound: 1 << 24}}, &funcs{accept: func(s *Session) { s.Server().Group("g").Join(s) }})
			var target atomic.Pointer[Session]
			stop := make(chan bool)
			var wg sync.WaitGroup
			for how := range 4 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for {
						select {
						case <-stop:
							return
						default:
							runtime.Gosched()
						}
						s := target.Load()
						switch {
						case how == 0:
							d.Broadcast(2, 2, nil)
						case how == 1:
							d.Group("g").Send(3, 3, nil)
						case s == nil:
						case how == 2:
							s.Push(4, 4, nil)
						case how == 3:
							s.Send(5, 5, nil)
						}
					}
				}()
			}
			behind := 0
			for range 300 {
				s, w := d.open(-1)
				target.Store(s)
				for range 3 {
					d.step()
				}
				d.l.received(s, badLength)
				for end := time.Now().Add(time.Minute); !w.finned; {
					if time.Now().After(end) {
						t.Fatal("no FIN")
					}
					d.step()
				}
				for range 3 {
					d.step()
				}
				ps := split(t, w.got)
				errs := 0
				for _, p := range ps {
					if p.Sub == SubError && p.Main == SystemMain {
						errs++
					}
				}
				last := ps[len(ps)-1]
				if errs != 1 || last.Main != SystemMain || last.Sub != SubError || binary.BigEndian.Uint16(last.Body) != uint16(CodeBadFrame) {
					behind++
				}
				d.l.disconnected(s, netio.EndFIN)
			}
			close(stop)
			wg.Wait()
			d.settleAll()
			if behind > 0 {
				t.Errorf("%d of 300 sessions were sent something behind their last ERROR", behind)
			}
		})
	}
}

// step runs a turn if one was asked for, and lets others run.
func (d *desk) step() {
	d.turn()
	runtime.Gosched()
}

// An answer that is owed in front of a bad frame is sent, and then the ERROR about that.
func TestHeldAnswerComesInFrontOfTheLastError(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			hold := make(chan func(), 2)
			var asked codec.Packet
			d := newDesk(t, Config{Dispatch: mode}, &funcs{read: func(s *Session, p codec.Packet) {
				asked = p.Clone()
				hold <- s.Hold()
				hold <- s.Hold()
			}})
			s, w := d.open(-1)
			d.settleAll()
			d.l.received(s, append(frame(1, 4, "slow"), badLength...))
			d.l.received(s, frame(1, 4, "behind it"))
			d.settleAll()
			if !s.Connected() || len(w.got) > 0 {
				t.Fatalf("connected %v, got %q, while an answer is owed", s.Connected(), w.got)
			}
			for i := range 2 {
				if err := s.Reply(asked, []byte("answer")); err != nil {
					t.Errorf("answer %d: %v", i, err)
				}
				(<-hold)()
				d.settleAll()
				if i == 0 && !s.Connected() {
					t.Fatal("closed with an answer still owed")
				}
			}
			answers := bytes.Repeat(frame(1, 4, "answer"), 2)
			if !bytes.HasPrefix(w.got, answers) || !w.finned {
				t.Fatalf("got %q, FIN %v", w.got, w.finned)
			}
			rest := split(t, w.got[len(answers):])
			if len(rest) != 1 || rest[0].Sub != SubError || binary.BigEndian.Uint16(rest[0].Body) != uint16(CodeBadFrame) {
				t.Errorf("behind the answers: %v, want ERROR 1", rest)
			}
			if why := Reason(s.closing.Load()); why != ReasonBadFrame {
				t.Errorf("reason %v", why)
			}
		})
	}
}

// A strand that waits for its peer to read, and whose peer sends its FIN when no
// descriptor is free to keep the connection, ends: OnSocketClose comes and the slot is free.
func TestParkedStrandEndsAtAFINWithoutDescriptors(t *testing.T) {
	for _, mode := range dispatches {
		for _, nofiles := range []bool{true, false} {
			closes := make(chan Reason, 2)
			d := newDesk(t, Config{Dispatch: mode, Limits: Limits{MaxOutbound: 4 << 10}}, &funcs{
				read: func(s *Session, p codec.Packet) {
					for range 5 {
						s.Reply(p, make([]byte, 1000))
					}
				},
				close: func(_ *Session, why Reason) { closes <- why },
			})
			s, w := d.open(0)
			w.nofiles = nofiles
			d.settleAll()
			for range 3 {
				d.l.received(s, frame(1, 1, ""))
				d.settleAll()
			}
			if s.in.Quiet() {
				t.Fatalf("%v: the strand does not wait", mode)
			}
			d.l.disconnected(s, netio.EndFIN)
			d.settleAll()
			if !nofiles { // then the peer is served to the end
				if d.table.count() != 1 {
					t.Errorf("%v: the session has gone with answers owed", mode)
				}
				w.room = -1
				s.canWrite()
				d.settleAll()
				if want := 15 * 1008; len(w.got) != want {
					t.Errorf("%v: %d bytes written, want %d", mode, len(w.got), want)
				}
			}
			if len(closes) != 1 || d.table.count() != 0 {
				t.Errorf("%v, no descriptor %v: OnSocketClose %d times, %d slots taken", mode, nofiles, len(closes), d.table.count())
			}
		}
	}
}
