package engine

import (
	"errors"
	"testing"
	"time"

	"millrace/codec"
)

// Pushes in one callback of several times what is kept of a session, and what it may leave unsent, don't end it: some are
// ErrBusy, the others go out as its peer acknowledges them, and it can be resumed behind them.
func TestABurstOfPushesEndsNoSession(t *testing.T) {
	const bursts = 2
	for _, scheme := range []string{"tcp", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			h, pushed := newResumable(), make(chan int, 1)
			h.read = func(s *Session, p codec.Packet) {
				n := 0
				for refused := 0; refused < 100; { // the kernel may take some, if the machine has held this up
					switch err := s.Push(2, 4, make([]byte, 9000)); {
					case err == nil:
						n++
					case errors.Is(err, ErrBusy):
						refused++
					default:
						t.Error(err)
						refused = 100
					}
				}
				pushed <- n
			}
			cfg := resumeConfig(scheme + "://127.0.0.1:0")
			cfg.Dispatch = Inline // on the session's loop, which so sends nothing during the callback
			srv := serve(t, cfg, h)
			p := hello(t, srv)
			p.ackEvery = 8
			for want := 0; p.resumed < bursts; {
				p.ask(1, 1, "now")
				n := <-pushed
				if n*9000 < 2*srv.cfg.MaxOutbound {
					t.Fatalf("%d pushes were taken, want twice MaxOutbound", n)
				}
				want += n
				p.want(t, want)
				p.close()
				waiting(t, srv, 1)
				p.reconnect(t)
			}
			if n := srv.Stats().Closes; n[ReasonSlowConsumer]+n[ReasonResumeOverrun] != 0 || p.resumed != bursts {
				t.Errorf("%d slow consumers, %d overruns, resumed %d times; want none, none, %d", n[ReasonSlowConsumer], n[ReasonResumeOverrun], p.resumed, bursts)
			}
		})
	}
}

// A peer that reads and does not acknowledge has a second for that, and another one; then its connection is cut as a slow
// consumer's. The next one brings what was pushed, or the session has ended, as that is too much to be kept, and says so.
func TestABurstThatIsNotAcknowledgedIsTooMuch(t *testing.T) {
	h := newResumable()
	h.read = func(s *Session, p codec.Packet) {
		for range 200 {
			s.Push(2, 4, make([]byte, 9000))
		}
	}
	srv := serve(t, resumeConfig("ws://127.0.0.1:0"), h)
	p := hello(t, srv)
	p.ackEvery = 1 << 40
	p.ask(1, 1, "now")
	begin := time.Now()
	for p.next() == nil {
	}
	if d := time.Since(begin); d < ackTime {
		t.Errorf("it was cut after %v, in front of its time", d)
	}
	if n := srv.Stats().Closes[ReasonSlowConsumer]; n != 1 {
		t.Errorf("%d slow consumers, want one", n)
	}
	p.close()
	over := func() bool { return srv.Stats().Closes[ReasonResumeOverrun] == 1 }
	until(t, "the session waits or has ended", func() bool { return over() || srv.waiting.Load() == 1 })
	p.ackEvery = 8
	switch err := p.connect(-1, -1); {
	case err == nil:
		p.want(t, 200)
	case err != errLost || !over():
		t.Errorf("%v; the session is over: %v", err, over())
	}
}
