package nodes_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/nodes"
)

// given is a handler whose sessions can be taken over; come is called between the moment when
// the other node has told of one and that when it lets it go.
type given struct {
	echoes
	come     func()
	most     int          // Config.MaxOutbound
	counting func(int)    // see Counting
	framer   codec.Framer // Config.Framer
	state    []byte       // of each session
	maxFrame int          // Config.MaxFrame
}

func (g *given) MarshalSession(*engine.Session) ([]byte, error) { return slices.Clone(g.state), nil }
func (g *given) UnmarshalSession(_ *engine.Session, state []byte) error {
	if !bytes.Equal(state, g.state) {
		return errors.New("the state is another's")
	}
	if g.come != nil {
		g.come()
	}
	return nil
}

// startMoving starts a node with a server of its own, whose sessions can be taken over.
func startMoving(t *testing.T, url, name string, h *given, change ...func(*settings)) (*member, *engine.Server) {
	t.Helper()
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: h.framer, MaxFrame: h.maxFrame, Loops: 1, Logger: quiet, Limits: engine.Limits{MaxOutbound: h.most, ResumeBytes: max(h.most, 256<<10)},
		Timeouts: engine.Timeouts{FirstFrameTimeout: engine.Off, Resume: time.Minute, Handover: engine.Off}}, h)
	if err != nil {
		t.Fatal(err)
	}
	m := start(t, url, name, append(change, func(s *settings) {
		s.before = func(n *nodes.Node) {
			n.Attach(srv, nil)
			n.Counting(h.counting)
		}
	})...)
	t.Cleanup(func() { _ = srv.Stop(background) })
	if err := srv.Start(background); err != nil {
		t.Fatal(err)
	}
	return m, srv
}

// hello connects with a token, or none, and returns the next one.
func hello(t *testing.T, srv *engine.Server, token []byte) (next []byte, resumed bool) {
	t.Helper()
	next, resumed, conn, _ := helloes(t, srv, token)
	conn.Close()
	return next, resumed
}

// helloes is hello for a client that stays, and reads on.
func helloes(t *testing.T, srv *engine.Server, token []byte) (next []byte, resumed bool, conn net.Conn, r *codec.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	body := []byte{1, 0}
	if token != nil {
		body = binary.BigEndian.AppendUint64(append(body, token...), 0)
	}
	frame, err := codec.Default().Append(nil, codec.Packet{Sub: 5, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	r = codec.NewReader(conn, nil)
	p, err := r.Next()
	if err != nil || p.Main != 0 || p.Sub != 6 || len(p.Body) != 25 {
		t.Fatalf("got %v, %v, want a WELCOME", p, err)
	}
	return slices.Clone(p.Body[1:17]), p.Body[0] == 1, conn, r
}

// A session whose groups change while it is carried stays: the other node was told of those
// before. Later it goes with all of them.
func TestGroupsThatChangeKeepTheSession(t *testing.T) {
	url := servers(t)
	ha, hb := &given{}, &given{}
	na, a := startMoving(t, url, "a", ha)
	nb, b := startMoving(t, url, "b", hb)
	na.knows("a=up b=up")
	nb.knows("a=up b=up")
	token, _ := hello(t, a, nil)
	var s *engine.Session
	a.Sessions(func(x *engine.Session) bool { s = x; return true })
	if _, err := na.Join(background, s, "early"); err != nil {
		t.Fatal(err)
	}
	hb.come = func() {
		if _, err := na.Join(background, s, "late"); err != nil {
			t.Error(err)
		}
	}
	if _, resumed := hello(t, b, token); resumed || !s.Connected() || nb.Stats().NotTaken[nodes.NotTakenBusy] != 1 {
		t.Fatalf("resumed %v, connected %v, not taken %v", resumed, s.Connected(), nb.Stats().NotTaken)
	}
	hb.come = nil
	if _, resumed := hello(t, b, token); !resumed {
		t.Fatalf("not taken %v", nb.Stats().NotTaken)
	}
	for _, name := range []string{"early", "late"} {
		if n := b.Group(name).Len(); n != 1 {
			t.Errorf("%d members of %s", n, name)
		}
	}
}

// What sessions on their way from a node hold is bounded together: the next waits for them, and
// stays where it is if that takes too long.
func TestSessionsOnTheirWayHoldNoMoreThanMay(t *testing.T) {
	url := servers(t)
	na, a := startMoving(t, url, "a", &given{}, func(s *settings) { s.MaxTakeovers = 1 })
	come, free := make(chan struct{}), make(chan struct{})
	nb, b := startMoving(t, url, "b", &given{come: func() { close(come); <-free }}, func(s *settings) { s.TakeoverTimeout = patience })
	nc, c := startMoving(t, url, "c", &given{}, func(s *settings) { s.TakeoverTimeout = 300 * time.Millisecond })
	nb.knows("a=up b=up c=up")
	nc.knows("a=up b=up c=up")
	first, _ := hello(t, a, nil)
	second, _ := hello(t, a, nil)
	done := make(chan bool)
	go func() {
		_, resumed := hello(t, b, first)
		done <- resumed
	}()
	<-come
	if _, resumed := hello(t, c, second); resumed || nc.Stats().NotTaken[nodes.NotTakenBusy] != 1 {
		t.Errorf("resumed %v, not taken %v; want it to be busy", resumed, nc.Stats().NotTaken)
	}
	close(free)
	if !<-done {
		t.Errorf("the first: not taken %v", nb.Stats().NotTaken)
	}
	if _, resumed := hello(t, c, second); !resumed {
		t.Errorf("the second: not taken %v", nc.Stats().NotTaken)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		in, _ := nc.OnTheWay()
		_, out := na.OnTheWay()
		if in == 0 && out == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes coming and %d going when nothing is", in, out)
		}
	}
}

// A client that leaves the node that is taking its session over finds it when it comes to
// another, or to the same again.
func TestClientThatLeavesInTheMiddleOfAMove(t *testing.T) {
	url := servers(t)
	for _, to := range []string{"another", "the same"} {
		t.Run(to, func(t *testing.T) {
			come, free := make(chan struct{}), make(chan struct{})
			na, a := startMoving(t, url, "a", &given{})
			hb := &given{come: sync.OnceFunc(func() { close(come); <-free })}
			long := func(s *settings) { s.TakeoverTimeout = patience }
			nb, b := startMoving(t, url, "b", hb, long)
			nc, c := startMoving(t, url, "c", &given{}, long)
			for _, n := range []*member{na, nb, nc} {
				n.knows("a=up b=up c=up")
			}
			token, _ := hello(t, a, nil)
			first := make(chan bool, 1)
			go func() {
				_, resumed := hello(t, b, token)
				first <- resumed
			}()
			<-come
			next, n := c, nc
			if to == "the same" {
				next, n = b, nb
			}
			second := make(chan bool, 1)
			go func() {
				_, resumed := hello(t, next, token)
				second <- resumed
			}()
			select {
			case <-second:
				close(free)
				t.Fatalf("it does not wait: not taken %v", n.Stats().NotTaken)
			case <-time.After(100 * time.Millisecond):
			}
			close(free)
			if !<-first || !<-second {
				t.Errorf("not resumed: not taken by b %v, by c %v", nb.Stats().NotTaken, nc.Stats().NotTaken)
			}
			if n := a.Conns() + b.Conns() + c.Conns(); n != 1 {
				t.Errorf("%d sessions, want 1", n)
			}
		})
	}
}

// A session to whose groups more is sent during the move than its outbox takes stays: behind
// the cut it would be lost.
func TestMoreThanAnOutboxTakesKeepsTheSession(t *testing.T) {
	url := servers(t)
	na, a := startMoving(t, url, "a", &given{})
	var flood atomic.Bool
	var send func() // set before anything comes
	hb := &given{most: 64 << 10, come: func() { flood.Store(true) }}
	hb.counting = func(int) {
		if flood.Swap(false) {
			send()
		}
	}
	nb, b := startMoving(t, url, "b", hb, func(s *settings) { s.TakeoverTimeout = patience })
	na.knows("a=up b=up")
	nb.knows("a=up b=up")
	send = func() {
		for range 12 {
			if err := nb.Broadcast(nil, 1, 1, make([]byte, 10<<10)); err != nil {
				t.Error(err)
			}
		}
	}
	token, _ := hello(t, a, nil)
	var s *engine.Session
	a.Sessions(func(x *engine.Session) bool { s = x; return true })
	if _, err := na.Join(background, s, "group"); err != nil { // B counts it when it begins to keep what is sent
		t.Fatal(err)
	}
	if _, resumed := hello(t, b, token); resumed || nb.Stats().NotTaken[nodes.NotTakenTooLarge] != 1 {
		t.Errorf("resumed %v, not taken %v", resumed, nb.Stats().NotTaken)
	}
	if _, resumed := hello(t, a, token); !resumed || !s.Connected() {
		t.Errorf("where it was: resumed %v, connected %v", resumed, s.Connected())
	}
}

// The user of a session that has gone is unbound where that was only when the node that it went to
// has died: as long as that lives, it is about to tell the store.
func TestUserOfASessionThatWentWaitsForItsNode(t *testing.T) {
	url := servers(t)
	na, a := startMoving(t, url, "a", &given{})
	nb, _ := startMoving(t, url, "b", &given{})
	na.knows("a=up b=up")
	hello(t, a, nil)
	var s *engine.Session
	a.Sessions(func(x *engine.Session) bool { s = x; return true })
	if _, err := na.Bind(background, s, codec.Packet{}, "user"); err != nil {
		t.Fatal(err)
	}
	bound := func() bool {
		_, _, ok, err := na.Bound(background, "user")
		return ok || err != nil
	}
	na.Went(s, na.Others()[0].Process, "user")
	if err := na.Settle("user"); err != nil { // as after a lost message
		t.Fatal(err)
	}
	na.Sweep(time.Now().Add(10 * time.Second))
	time.Sleep(100 * time.Millisecond) // nothing is to happen
	if !bound() {
		t.Fatal("the user is unbound while the node lives")
	}
	nb.stop()
	na.knows("a=up")
	na.Sweep(time.Now().Add(10 * time.Second))
	for end := time.Now().Add(patience); bound(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the user is still bound")
		}
	}
}
