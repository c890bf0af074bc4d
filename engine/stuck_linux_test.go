package engine

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// Stop with a deadline returns soon after it whatever handlers do, and names those that
// are stuck, on loops and on workers.
func TestStopNamesWhatIsStuck(t *testing.T) {
	gate, inside := make(chan bool), make(chan ID, 2)
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet, Loops: 1, Workers: 2, Handles: map[uint32]Dispatch{3<<16 | 1: Inline, 3<<16 | 2: Ordered}},
		&funcs{read: func(s *Session, p codec.Packet) {
			if p.Sub < 3 {
				inside <- s.ID()
				<-gate
			}
			echo(s, p)
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[Stuck]bool{}
	idle, clients := dial(t, srv), []*client{dial(t, srv), dial(t, srv)}
	for _, c := range append(clients, idle) {
		slowest(c, 3, 3, 3)
	}
	for i, c := range clients {
		sub := uint16(i + 1)
		c.send(3, sub, "")
		want[Stuck{<-inside, 3, sub}] = true
	}
	slowest(idle, 3, 3, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Stop(ctx) }()
	select {
	case err = <-stopped:
	case <-time.After(20 * time.Second):
		close(gate)
		t.Fatal("Stop has not returned")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Stop took %v", took)
	}
	var loss *LossError
	if !errors.As(err, &loss) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a *LossError that is context.DeadlineExceeded", err)
	}
	if len(loss.Stuck) != len(want) {
		t.Errorf("%d are stuck, want %d", len(loss.Stuck), len(want))
	}
	for _, s := range loss.Stuck {
		if !want[s] {
			t.Errorf("%+v is stuck, want %v", s, want)
		}
		if !strings.Contains(err.Error(), s.Session.String()) {
			t.Errorf("%q does not name %v", err, s.Session)
		}
	}
	if loss.Sessions != 2 || loss.Frames != 2 {
		t.Errorf("%d sessions, %d requests, want 2 and 2", loss.Sessions, loss.Frames)
	}
	close(gate) // what was left behind ends with its callbacks: TestMain looks for that
	select {
	case <-srv.Done():
	case <-time.After(20 * time.Second):
		t.Error("Done is not closed")
	}
}

// Stop from any callback, wherever it runs, is refused at once and changes nothing.
func TestStopFromEveryCallbackIsRefused(t *testing.T) {
	for _, mode := range []Dispatch{Ordered, Inline} {
		t.Run(mode.String(), func(t *testing.T) {
			var victim atomic.Pointer[Server]
			type answer struct {
				from string
				err  error
			}
			answers := make(chan answer, 64)
			stop := func(from string) {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				answers <- answer{from, victim.Load().Stop(ctx)}
			}
			start := make(chan bool)
			srv := serve(t, Config{Loops: 1, Dispatch: mode, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{
				accept: func(*Session) { <-start; stop("OnSocketAccept") },
				read: func(s *Session, p codec.Packet) {
					stop("OnSocketRead")
					s.Submit(func() { stop("Submit") })
				},
				fin:   func(*Session) { stop("OnSocketFin") },
				close: func(*Session, Reason) { stop("OnSocketClose") },
			})
			victim.Store(srv)
			close(start)
			c := dial(t, srv)
			c.send(1, 1, "")
			for _, from := range []string{"OnSocketAccept", "OnSocketRead", "Submit", "OnSocketFin", "OnSocketClose"} {
				select {
				case a := <-answers:
					if a.from != from || !errors.Is(a.err, ErrInCallback) {
						t.Errorf("%s: got %v, want ErrInCallback from %s", a.from, a.err, from)
					}
				case <-time.After(time.Minute):
					t.Fatalf("%s: Stop waits for itself", from)
				}
				if from == "Submit" {
					half(c)
				}
			}
			if srv.Draining() || !srv.Running() {
				t.Errorf("draining %v, running %v", srv.Draining(), srv.Running())
			}
			srv.SetHandler(&funcs{read: echo})
			slowest(dial(t, srv), 1, 1, 3)
		})
	}
}

// refuses tells whether what a session of a draining server reads now is refused.
func refuses(srv *Server) bool {
	s := sessionOf(srv)
	return s != nil && srv.late(s, srv.now())
}
