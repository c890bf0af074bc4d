package enginetest_test

import (
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/engine/enginetest"
)

// room is a handler as a program has it: 1/5 joins, 1/7 tells the room something, and
// everybody is told with 1/8 who has left.
type room struct{ all *engine.Group }

func (r *room) OnSocketAccept(*engine.Session) {}

func (r *room) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Sub {
	case 5:
		s.SetValue(string(p.Body))
		if _, err := r.all.Join(s); err == nil {
			_ = s.Reply(p, nil) // it fails only where the session has gone
		}
	case 7:
		_, _ = s.SendGroup(r.all, 1, 8, p.Body)
	}
}

func (r *room) OnSocketClose(s *engine.Session, _ engine.Reason) {
	if name, ok := s.Value().(string); ok {
		_, _ = s.SendGroup(r.all, 1, 8, []byte(name+" has left"))
	}
}

// The members of a room are told when the connection of another breaks, in every order of events.
func TestRoomHearsOfAReset(t *testing.T) {
	enginetest.Run(t, enginetest.Options{Seeds: 50}, func(w *enginetest.World) {
		h := &room{}
		srv := w.Server(engine.Config{}, h)
		h.all = srv.Group("all")
		a, b := w.Dial(srv), w.Dial(srv)
		a.Send(1, 5, []byte("ann"))
		b.Send(1, 5, []byte("bob"))
		w.Until(a.Received(1, 5))
		w.Until(b.Received(1, 5))
		b.Send(1, 7, []byte("hello"))
		a.Want(1, 8, []byte("hello"))
		if w.Chance(2) {
			w.Advance(w.Between(0, 10*time.Second))
		}
		a.Reset()
		b.Want(1, 8, []byte("hello"))
		b.Want(1, 8, []byte("ann has left"))
	})
}
