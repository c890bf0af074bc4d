package engine

import (
	"errors"
	"testing"
	"time"
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
	if err := srv.Start(within(t, 5*time.Second)); err != nil {
		t.Error(err)
	}
	close(stop)
	<-asked
	if err := srv.Stop(within(t, 5*time.Second)); err != nil {
		t.Error(err)
	}
}
