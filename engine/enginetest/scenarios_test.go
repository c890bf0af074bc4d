package enginetest

import (
	"encoding/binary"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// scenarios are the worlds that are run from many seeds.
var scenarios = []struct {
	name string
	opt  Options
	fn   func(*World)
}{
	{"echo", Options{}, echoWorld},
	{"rooms", Options{}, roomsWorld},
	{"logins", Options{}, loginsWorld},
	{"resume", Options{}, resumeWorld},
	{"blocking", Options{}, blockingWorld},
	{"pressure", Options{}, pressureWorld},
	{"drain", Options{}, drainWorld},
	{"crowd", Options{Files: 60}, crowdWorld},
	{"idle", Options{}, idleWorld},
	{"walks", Options{}, walksWorld},
	{"doors", Options{}, doorsWorld},
	{"fair", Options{Panics: true, InOrder: true}, fairWorld},
	{"stuck", Options{}, stuckWorld},
	{"memory", Options{}, memoryWorld},
	{"slow", Options{}, slowWorld},
	{"files", Options{Files: 200}, filesWorld},
}

// echo answers each frame with itself; those of Main 4 in a function that it submits.
type echo struct{}

func (echo) OnSocketAccept(*engine.Session) {}
func (echo) OnSocketRead(s *engine.Session, p codec.Packet) {
	if p.Main == 4 {
		q, release := p.Clone(), s.Hold()
		if s.Submit(func() { _ = s.Reply(q, q.Body); release() }) != nil {
			release()
		}
		return
	}
	_ = s.Reply(p, p.Body)
}
func (echo) OnSocketClose(*engine.Session, engine.Reason) {}

// number is a body that tells which frame it is of, and is so long in all.
func number(n, size int) []byte {
	b := make([]byte, max(size, 4))
	binary.BigEndian.PutUint32(b, uint32(n))
	return b
}

// wantEchoes holds that the answers of a client to whose connection nothing was done are
// what it has sent, in that order.
func wantEchoes(w *World, c *Client, main uint16) {
	asked := c.asked(main)
	w.Until(func() bool { return c.hurt || c.Ended() || c.answers(main) >= len(asked) })
	i := 0
	for _, p := range c.Frames() {
		if p.Main != main {
			continue
		}
		if i >= len(asked) {
			w.Fatalf("client %d: an answer more than questions", c.conn.ID())
		}
		if q := asked[i]; q.Sub != p.Sub || string(q.Body) != string(p.Body) {
			w.Fatalf("client %d: answer %d is to %d/%d %.20q, want one to %d/%d %.20q", c.conn.ID(), i, p.Main, p.Sub, p.Body, q.Main, q.Sub, q.Body)
		}
		i++
	}
	if !c.hurt && !c.life.hurt && i < len(asked) {
		w.Fatalf("client %d: %d of %d answers have come", c.conn.ID(), i, len(asked))
	}
}

// asked is what the client has sent of those.
func (c *Client) asked(main uint16) (list []codec.Packet) {
	for _, p := range c.life.sent {
		if p.Main == main {
			list = append(list, p)
		}
	}
	return list
}

func (c *Client) answers(main uint16) (n int) {
	for _, p := range c.frames {
		if p.Main == main {
			n++
		}
	}
	return n
}

// dispatch is one of the ways in which packets run.
func dispatch(w *World) engine.Dispatch {
	return [...]engine.Dispatch{engine.Ordered, engine.Adaptive, engine.Inline}[w.Pick(3)]
}

// size is a body's: mostly small.
func size(w *World, large int) int {
	switch w.Pick(8) {
	default:
		return 4 + w.Pick(60)
	case 6:
		return 4 + w.Pick(2000)
	case 7:
		return 4 + w.Pick(large)
	}
}

// echoWorld has clients that ask at any pace, some of which break off, and come again.
func echoWorld(w *World) {
	srv := w.Server(engine.Config{Dispatch: dispatch(w)}, echo{})
	var clients []*Client
	for range 2 + w.Pick(5) {
		clients = append(clients, w.Dial(srv))
	}
	for n := range 10 + w.Pick(60) {
		i := w.Pick(len(clients))
		c := clients[i]
		switch w.Pick(16) {
		case 13:
			c.Reset()
			clients[i] = w.Dial(srv)
		case 14:
			c.CloseWrite()
			wantEchoes(w, c, 1)
			wantEchoes(w, c, 4)
			clients[i] = w.Dial(srv)
		case 15:
			w.Advance(w.Between(0, 20*time.Millisecond))
		default:
			for range 1 + w.Pick(4) {
				c.Send(uint16(1+3*w.Pick(2)), uint16(w.Pick(3)), number(n, size(w, 30_000)))
			}
		}
		if w.Chance(3) {
			w.Advance(w.Between(0, time.Millisecond))
		}
	}
	for _, c := range clients {
		wantEchoes(w, c, 1)
		wantEchoes(w, c, 4)
	}
}
