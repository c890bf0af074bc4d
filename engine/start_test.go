package engine

import (
	"errors"
	"testing"
	"time"

	"millrace/codec"
)

// A server may be asked before and while it starts: there are no sessions yet.
func TestAskedWhileItStarts(t *testing.T) {
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}, &funcs{})
	if err != nil {
		t.Fatal(err)
	}
	asked, stop := make(chan bool), make(chan bool)
	go func() {
		defer close(asked)
		for id := makeID(0, 1); ; {
			if srv.Session(id) != nil || !errors.Is(srv.Send(id, 1, 1, nil), ErrClosed) || srv.CloseSocket(id) == nil {
				t.Error("a session before the first")
			}
			srv.Sessions(func(*Session) bool { t.Error("a session before the first"); return false })
			if n := srv.Stats().Conns; n != 0 {
				t.Errorf("%d sessions before the first", n)
			}
			srv.Group("g").Send(1, 1, nil)
			srv.Broadcast(1, 1, nil)
			_ = srv.Config().MaxConns
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	if err := srv.Start(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
	close(stop)
	<-asked
	if err := srv.Stop(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

// What goes to all finds nobody before Start and after Stop, and says so.
func TestBroadcastsOutsideOfTheServersLife(t *testing.T) {
	var last *Session
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) { last = s; echo(s, p) }})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, want error) {
		t.Helper()
		_, groupErr := srv.Group("g").Send(1, 1, nil)
		for how, err := range map[string]error{"Broadcast": srv.Broadcast(1, 1, nil), "Group.Send": groupErr} {
			if !errors.Is(err, want) {
				t.Errorf("%s, %s: got %v, want %v", how, when, err, want)
			}
		}
	}
	check("before Start", ErrClosed)
	if err := srv.Start(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := dial(t, srv)
	c.send(1, 9, "x")
	c.expect(1, 9, "x")
	check("while it runs", nil)
	c.expect(1, 1, "")
	if err := srv.Stop(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
	check("after Stop", ErrClosed)
	_, groupErr := last.SendGroup(srv.Group("g"), 1, 1, nil)
	for how, err := range map[string]error{"Session.Broadcast": last.Broadcast(1, 1, nil), "Session.SendGroup": groupErr} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s, after Stop: %v", how, err)
		}
	}
}
