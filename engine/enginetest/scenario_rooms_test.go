package enginetest

import (
	"encoding/binary"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// rooms is a chat: 1 joins the room of its body, 2 leaves it, 3 tells it to the room, 4 to
// everybody.
type rooms struct{ srv *Server }

func (h *rooms) OnSocketAccept(*engine.Session) {}
func (h *rooms) OnSocketRead(s *engine.Session, p codec.Packet) {
	g := h.srv.Group("room " + string(p.Body[:1]))
	switch p.Sub {
	case 1:
		_, _ = g.Join(s)
		_ = s.Reply(p, p.Body)
	case 2:
		_, _ = g.Leave(s)
		_ = s.Reply(p, p.Body)
	case 3:
		_, _ = s.SendGroup(g, 2, 3, p.Body)
		_ = s.Reply(p, p.Body)
	case 4:
		_ = s.Broadcast(3, 4, p.Body)
		_ = s.Reply(p, p.Body)
	}
}
func (h *rooms) OnSocketClose(*engine.Session, engine.Reason) {}

// roomsWorld has members that come, talk and go. Everybody hears one speaker's words in the
// order in which they were said, each once; and who is not a member hears nothing.
func roomsWorld(w *World) {
	h := &rooms{}
	h.srv = w.Server(engine.Config{Dispatch: dispatch(w), DrainBudget: 1 + w.Pick(3)}, h)
	type member struct {
		*Client
		in   map[byte]int // which stay in the room this is; 0: outside
		stay int
		said uint32
	}
	type word struct {
		way     uint16
		room    byte
		from    int
		n       uint32
		hearers map[*member]int // and their stays
	}
	var words []word
	var members []*member
	join := func() *member { return &member{Client: w.Dial(h.srv), in: map[byte]int{}} }
	for range 3 + w.Pick(4) {
		members = append(members, join())
	}
	for range 10 + w.Pick(50) {
		i := w.Pick(len(members))
		m, room := members[i], byte('a'+w.Pick(2))
		switch w.Pick(10) {
		case 0, 1, 2:
			m.Stall(false)
			m.Send(1, 1, []byte{room})
			wantEchoes(w, m.Client, 1)
			if m.in[room] == 0 {
				m.stay++
				m.in[room] = m.stay
			}
		case 3:
			delete(m.in, room)
			m.Stall(false)
			m.Send(1, 2, []byte{room})
			wantEchoes(w, m.Client, 1)
			before := len(m.Frames())
			w.Advance(10 * time.Millisecond)
			for _, p := range m.Frames()[before:] {
				if p.Main == 2 && p.Body[0] == room {
					w.Fatalf("client %d has left the room and hears %q", m.conn.ID(), p.Body)
				}
			}
		case 4:
			m.Reset()
			members[i] = join()
		case 5:
			m.Stall(w.Chance(2))
			if w.Chance(3) {
				m.Write([]byte{255, 0, 0, 0})
				m.hurt = true // it is as good as gone
				members[i] = join()
			}
		default:
			m.said++
			x := word{uint16(2 + w.Pick(2)), room, m.conn.ID(), m.said, map[*member]int{}}
			for _, o := range members {
				if o.conn.Accepted() && (x.way == 3 || o.in[room] > 0) {
					x.hearers[o] = o.in[room]
				}
			}
			words = append(words, x)
			body := binary.BigEndian.AppendUint32([]byte{room, byte(m.conn.ID())}, m.said)
			m.Send(1, x.way+1, append(body, make([]byte, w.Pick(200))...))
		}
		if w.Chance(2) {
			w.Advance(w.Between(0, 2*time.Millisecond))
		}
	}
	for _, m := range members {
		m.Stall(false)
	}
	for _, m := range members {
		wantEchoes(w, m.Client, 1)
	}
	w.Advance(time.Second)
	for _, m := range members {
		if m.hurt || m.Ended() {
			continue
		}
		heard := map[[3]uint32]bool{}
		for _, p := range m.Frames() {
			if p.Main == 2 || p.Main == 3 {
				heard[[3]uint32{uint32(p.Main), uint32(p.Body[1]), binary.BigEndian.Uint32(p.Body[2:])}] = true
			}
		}
		for _, x := range words {
			stay, must := x.hearers[m]
			if must && (x.way == 3 || m.in[x.room] == stay) && spoke(members, x.from) && !heard[[3]uint32{uint32(x.way), uint32(x.from), x.n}] {
				w.Fatalf("client %d has not heard word %d of client %d", m.conn.ID(), x.n, x.from)
			}
		}
	}
	for _, m := range members { // who is told his own words hears them in front of the answer
		told := map[string]bool{}
		for _, p := range m.Frames() {
			switch {
			case p.Main != 1:
				told[string(p.Body)] = true
			case p.Sub == 4 && !told[string(p.Body)]:
				w.Fatalf("client %d is answered in front of its broadcast %.8q", m.conn.ID(), p.Body)
			}
		}
	}
	for _, m := range members {
		last := map[[2]uint16]uint32{} // of each speaker, in each way of speaking
		for _, p := range m.Frames() {
			if p.Main != 2 && p.Main != 3 {
				continue
			}
			from, n := [2]uint16{p.Main, uint16(p.Body[1])}, binary.BigEndian.Uint32(p.Body[2:])
			if n <= last[from] {
				w.Fatalf("client %d hears word %d of client %d behind its word %d", m.conn.ID(), n, from[1], last[from])
			}
			last[from] = n
		}
	}
}

// spoke tells whether what a client has said was said: nothing was done to its connection.
func spoke[M interface{ id() (int, bool) }](members []M, id int) bool {
	for _, m := range members {
		if n, hurt := m.id(); n == id {
			return !hurt
		}
	}
	return false
}

func (c *Client) id() (n int, hurt bool) { return c.conn.ID(), c.hurt || c.Ended() }
