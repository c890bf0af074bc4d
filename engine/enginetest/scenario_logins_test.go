package enginetest

import (
	"encoding/binary"
	"fmt"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// logins answers 1 with the name that its body has once the database has said yes.
type logins struct {
	w     *World
	srv   *Server
	db    *Database
	users map[string]int
	// Answers that were asked for, came, and came too late for their session.
	asked, came, stale int
}

type user struct{ name string }

func (h *logins) OnSocketAccept(s *engine.Session) { s.SetValue(&user{}) }
func (h *logins) OnSocketRead(s *engine.Session, p codec.Packet) {
	p = p.Clone()
	release := s.Hold()
	h.asked++
	h.db.Do(s, func() error {
		h.users[string(p.Body)]++
		return nil
	}, func(err error) {
		h.came++
		defer release()
		if err != nil {
			_ = s.ReplyError(p, engine.CodeUnavailable, err.Error())
			return
		}
		s.Value().(*user).name = string(p.Body)
		_ = s.Reply(p, p.Body)
	}, func(error) {
		release()
		h.stale++
		_ = h.srv.Send(s.ID(), p.Main, p.Sub, p.Body) // to nobody
	})
}
func (h *logins) OnSocketClose(s *engine.Session, _ engine.Reason) {}

// loginsWorld has clients that go while the database thinks; the next client of the slot
// never gets their answer.
func loginsWorld(w *World) {
	h := &logins{w: w, db: w.Database(), users: map[string]int{}}
	h.db.NotRun, h.db.Lost = 10, 10
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Limits: engine.Limits{MaxConns: 3}}, h)
	h.srv = srv
	var now [3]*Client
	for n := range 10 + w.Pick(30) {
		i := w.Pick(len(now))
		if now[i] == nil {
			now[i] = w.Dial(srv)
		}
		c := now[i]
		c.Send(1, 1, fmt.Appendf(nil, "user %d of client %d", n, c.conn.ID()))
		w.Advance(w.Between(0, 30*time.Millisecond))
		switch w.Pick(5) {
		case 1:
			c.Reset()
			now[i] = nil
		case 4: // what stands in front of a bad frame is answered
			c.Write([]byte{255, 0, 0, 0})
			w.Until(c.Ended)
			if got, want := c.answers(1)+c.answers(engine.SystemMain), len(c.life.sent)+1; got != want && !refused(c) {
				w.Fatalf("client %d has sent a bad frame and was answered %d times, want %d", c.conn.ID(), got, want)
			}
			now[i] = nil
		case 2:
			c.CloseWrite()
			w.Until(c.Ended)
			if got, want := c.answers(1)+c.answers(engine.SystemMain), len(c.life.sent); got != want && !refused(c) {
				w.Fatalf("client %d has sent a FIN and was answered %d of %d times", c.conn.ID(), got, want)
			}
			now[i] = nil
		}
		for _, c := range now {
			if c != nil {
				wantOwn(w, c)
			}
		}
	}
	w.UntilWithin(10*time.Second, func() bool { return h.asked == h.came+h.stale })
	if h.asked != h.came+h.stale {
		w.Fatalf("%d answers were asked for, %d have come and %d found nobody", h.asked, h.came, h.stale)
	}
}

// refused tells whether the connection was turned away.
func refused(c *Client) bool {
	for _, p := range c.Frames() {
		if p.Main == engine.SystemMain && p.Sub == engine.SubError && binary.BigEndian.Uint16(p.Body) == uint16(engine.CodeLimit) {
			return true
		}
	}
	return false
}

// wantOwn holds that a client's answers are to what it has asked.
func wantOwn(w *World, c *Client) {
	for _, p := range c.Frames() {
		if p.Main != 1 {
			continue
		}
		var n, id int
		if _, err := fmt.Sscanf(string(p.Body), "user %d of client %d", &n, &id); err != nil || id != c.conn.ID() {
			w.Fatalf("client %d was answered %q", c.conn.ID(), p.Body)
		}
	}
}

// drainWorld stops the server in the middle of everything: what was asked before is
// answered, or refused with a word.
func drainWorld(w *World) {
	h := &logins{w: w, db: w.Database(), users: map[string]int{}}
	h.db.To = w.Between(50*time.Millisecond, 2*time.Second)
	srv := w.Server(engine.Config{Dispatch: dispatch(w)}, h)
	h.srv = srv
	var clients []*Client
	for range 1 + w.Pick(5) {
		clients = append(clients, w.Dial(srv))
	}
	for n := range 5 + w.Pick(20) {
		c := clients[w.Pick(len(clients))]
		c.Send(1, 1, fmt.Appendf(nil, "user %d of client %d", n, c.conn.ID()))
		if w.Chance(3) {
			w.Advance(w.Between(0, 3*time.Millisecond))
		}
	}
	w.Advance(10 * time.Millisecond) // now all of these have been read
	late := w.Pick(20)
	for n := range late {
		c := clients[w.Pick(len(clients))]
		w.After(w.Between(0, 400*time.Millisecond), func() {
			if !c.Ended() && !c.hurt {
				c.Send(1, 1, fmt.Appendf(nil, "user %d of client %d", 100+n, c.conn.ID()))
			}
		})
	}
	if err := srv.StopWithin(10 * time.Second); err != nil {
		w.Fatalf("a drain of 10 s: %v", err)
	}
	for _, c := range clients {
		wantOwn(w, c)
		asked, answered, goAway := 0, 0, false
		for _, p := range c.life.sent {
			var n, id int
			if _, err := fmt.Sscanf(string(p.Body), "user %d of client %d", &n, &id); err == nil && n < 100 {
				asked++
			}
		}
		for _, p := range c.Frames() {
			switch {
			case p.Main == 1, p.Main == engine.SystemMain && p.Sub == engine.SubError:
				answered++
			case p.Main == engine.SystemMain && p.Sub == engine.SubGoAway:
				goAway = true
			}
		}
		if answered < asked {
			w.Fatalf("client %d: %d answers to %d requests in front of the drain (told: %v)", c.conn.ID(), answered, asked, goAway)
		}
	}
}
