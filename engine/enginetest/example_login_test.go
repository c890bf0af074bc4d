package enginetest_test

import (
	"errors"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/engine/enginetest"
)

// door lets users in: 1/1 with a name is answered when the database has said who that is.
// The answer comes back on the session, by Submit: so it can't reach the next session that
// has the same slot.
type door struct {
	db    *enginetest.Database // a program has its own; dbasync, say
	ids   map[string]byte
	gone  int // answers whose clients had left
	tries int
}

func (d *door) OnSocketAccept(*engine.Session) {}

func (d *door) OnSocketRead(s *engine.Session, p codec.Packet) {
	p = p.Clone()       // it is kept beyond this call
	release := s.Hold() // the answer is owed: a FIN of the client's waits for it
	name := string(p.Body)
	id := byte(0)
	d.db.Do(s, func() error {
		d.tries++
		if d.ids[name] == 0 {
			return errors.New("no such user")
		}
		id = d.ids[name]
		return nil
	}, func(err error) {
		defer release()
		if err != nil {
			_ = s.ReplyError(p, engine.CodeUnauthorised, err.Error())
			return
		}
		_ = s.Reply(p, []byte{id})
	}, func(error) {
		release()
		d.gone++
	})
}

func (d *door) OnSocketClose(*engine.Session, engine.Reason) {}

// A client disconnects while the database still works on its login. The next client has the same
// slot, and never gets the answer of the other.
func TestLateLoginFindsNobody(t *testing.T) {
	enginetest.Run(t, enginetest.Options{Seeds: 50}, func(w *enginetest.World) {
		d := &door{db: w.Database(), ids: map[string]byte{"ann": 1, "bob": 2}}
		d.db.From, d.db.To = 2*time.Second, 4*time.Second
		srv := w.Server(engine.Config{Limits: engine.Limits{MaxConns: 1}}, d) // so there is one slot
		ann := w.Dial(srv)
		ann.Send(1, 1, []byte("ann"))
		w.Advance(100 * time.Millisecond)
		ann.Reset()
		w.Until(func() bool { return srv.Stats().Conns == 0 })
		bob := w.Dial(srv)
		bob.Send(1, 1, []byte("bob"))
		bob.Want(1, 1, []byte{2})
		w.Advance(10 * time.Second)
		if n := bob.Count(1, 1); n != 1 || d.gone != 1 || d.tries != 2 {
			w.Fatalf("bob has %d answers, %d found nobody, the database was asked %d times; want 1, 1, 2", n, d.gone, d.tries)
		}
	})
}
