package nodes_test

import (
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/nodes"
)

// onlySession is the one session of a server.
func onlySession(srv *engine.Server) (s *engine.Session) {
	srv.Sessions(func(x *engine.Session) bool { s = x; return true })
	return s
}

// The node that takes a session over is cut off before it can say so. It says it again when it
// can, as nothing has happened until then; if that takes too long, the session goes on where it was.
func TestCommitThatCantBeSent(t *testing.T) {
	for _, heals := range []bool{true, false} {
		name := "it heals"
		if !heals {
			name = "it does not"
		}
		t.Run(name, func(t *testing.T) {
			url := servers(t)
			proxy, cut := through(t, url)
			within := patience
			if !heals {
				within = time.Second
			}
			long := func(s *settings) { s.TakeoverTimeout = within }
			na, a := startMoving(t, url, "a", &given{}, long)
			hb := &given{}
			nb, b := startMoving(t, cut, "b", hb, long)
			na.knows("a=up b=up")
			nb.knows("a=up b=up")
			hb.come = func() {
				proxy.Cut()
				eventually(t, "b is cut off", func() bool { return !nb.Stats().Bus.Up })
				if heals {
					time.AfterFunc(200*time.Millisecond, proxy.Heal)
				}
			}
			token, _ := hello(t, a, nil)
			s := onlySession(a)
			_, resumed := hello(t, b, token)
			if resumed != heals {
				t.Fatalf("resumed at b: %v, want %v; not taken %v", resumed, heals, nb.Stats().NotTaken)
			}
			if heals {
				eventually(t, "it is at b alone", func() bool { return a.Conns() == 0 && b.Conns() == 1 && na.Stats().Given == 1 })
				return
			}
			eventually(t, "b has given up", func() bool { return nb.Stats().NotTaken[nodes.NotTakenDead] == 1 })
			if n := na.Stats().Given; n != 0 {
				t.Errorf("%d given, want none", n)
			}
			eventually(t, "it goes on where it was", func() bool {
				_, resumed := hello(t, a, token)
				return resumed
			})
			if !s.Connected() {
				t.Error("the session has ended at a")
			}
		})
	}
}

// A session is followed from where it was to where it is going to, also when it has left the one
// and has not come to the other: that one says that it is busy, not that there is no such session.
func TestSessionBetweenTwoNodesIsWaitedFor(t *testing.T) {
	url := servers(t)
	proxy, slow := through(t, url)
	long := func(s *settings) { s.TakeoverTimeout = patience }
	na, a := startMoving(t, url, "a", &given{}, long)
	hb := &given{}
	nb, b := startMoving(t, slow, "b", hb, long)
	nc, c := startMoving(t, url, "c", &given{}, long)
	for _, n := range []*member{na, nb, nc} {
		n.knows("a=up b=up c=up")
	}
	token, _ := hello(t, a, nil)
	if _, err := na.Bind(background, onlySession(a), codec.Packet{}, "user"); err != nil { // b tells the store of it, slowly
		t.Fatal(err)
	}
	hb.come = func() { proxy.Delay(150 * time.Millisecond) }
	first := make(chan bool, 1)
	go func() {
		_, resumed := hello(t, b, token)
		first <- resumed
	}()
	eventually(t, "a has let it go", func() bool { return na.Stats().Given == 1 })
	if n := nb.Stats().Taken; n != 0 {
		t.Log("b has it already: the test shows nothing")
	}
	_, resumed := hello(t, c, token)
	if !<-first || !resumed {
		t.Errorf("resumed at c: %v; not taken by b %v, by c %v", resumed, nb.Stats().NotTaken, nc.Stats().NotTaken)
	}
	if n := a.Conns() + b.Conns() + c.Conns(); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// No more sessions that have gone are remembered than may be: the oldest is forgotten.
func TestSessionsThatWentAreRememberedUpToALimit(t *testing.T) {
	url := servers(t)
	na, a := startMoving(t, url, "a", &given{}, func(s *settings) { s.MaxMoved = 2 })
	nb, b := startMoving(t, url, "b", &given{})
	nc, c := startMoving(t, url, "c", &given{})
	for _, n := range []*member{na, nb, nc} {
		n.knows("a=up b=up c=up")
	}
	var tokens [3][]byte
	for i := range tokens {
		tokens[i], _ = hello(t, a, nil)
	}
	for i, token := range tokens {
		if _, resumed := hello(t, b, token); !resumed {
			t.Fatalf("session %d: not taken %v", i, nb.Stats().NotTaken)
		}
	}
	if st := na.Stats(); st.Moved != 2 || st.Forgotten != 1 || st.Given != 3 {
		t.Errorf("%d remembered, %d forgotten, %d given; want 2, 1, 3", st.Moved, st.Forgotten, st.Given)
	}
	for i, token := range tokens { // their clients have not had b's answer
		if _, resumed := hello(t, c, token); resumed != (i > 0) {
			t.Errorf("session %d: resumed %v; not taken %v", i, resumed, nc.Stats().NotTaken)
		}
	}
}
