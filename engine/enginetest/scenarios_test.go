package enginetest

import (
	"encoding/binary"
	"fmt"
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

// counting answers each frame with how many it has had.
type counting struct{}

func (counting) OnSocketAccept(s *engine.Session) { s.SetValue(new(int)) }
func (counting) OnSocketRead(s *engine.Session, p codec.Packet) {
	n := s.Value().(*int)
	*n++
	_ = s.Reply(p, number(*n, 8+len(p.Body)%500))
	if *n%7 == 0 {
		_ = s.Push(2, 1, number(*n, 100))
	}
}
func (counting) OnSocketClose(*engine.Session, engine.Reason) {}

// resumeWorld has clients whose connections break and that come back: nothing is lost,
// doubled or run twice.
func resumeWorld(w *World) {
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Timeouts: engine.Timeouts{Resume: 20 * time.Second}, Limits: engine.Limits{ResumeBytes: 64 << 10}}, counting{})
	type peer struct {
		*Client
		asked, seen, from int // frames since the session began
	}
	var peers []*peer
	for range 1 + w.Pick(3) {
		peers = append(peers, &peer{Client: w.DialResume(srv)})
	}
	check := func(p *peer) {
		for ; p.from < len(p.frames); p.from++ {
			f := p.frames[p.from]
			if f.Main != 1 {
				continue
			}
			p.seen++
			if n := int(binary.BigEndian.Uint32(f.Body)); n != p.seen {
				w.Fatalf("client %d: got answer %d, want %d", p.conn.ID(), n, p.seen)
			}
		}
		if p.seen > p.asked {
			w.Fatalf("client %d: %d answers to %d questions", p.conn.ID(), p.seen, p.asked)
		}
	}
	for range 8 + w.Pick(30) {
		p := peers[w.Pick(len(peers))]
		switch w.Pick(6) {
		case 3, 4:
			for range 1 + w.Pick(3) {
				switch w.Pick(4) {
				case 1: // the new connection takes over in the middle of a frame
					p.conn.Send([]byte{0, 0, 0, 50, 0, 1})
				case 2:
					p.Vanish()
				case 3:
					p.Reset()
				}
				w.Advance(w.Between(0, 3*time.Second))
				check(p)
				for tries := 0; !p.Reconnect() && p.resume.lost == 0; tries++ {
					if tries > 5 {
						w.Fatalf("client %d: no way back", p.conn.ID())
					}
				}
				if p.resume.lost > 0 {
					w.Fatalf("client %d: its session did not go on", p.conn.ID())
				}
			}
		default:
			for range 1 + w.Pick(6) {
				p.asked++
				p.Send(1, 1, number(p.asked, size(w, 5000)))
			}
		}
		w.Advance(w.Between(0, 5*time.Millisecond))
		check(p)
	}
	for _, p := range peers {
		w.Until(func() bool { check(p); return p.seen == p.asked })
	}
}

// blocking sleeps for as many milliseconds as its body says, or waits for another session.
type blocking struct {
	w *World
}

func (h *blocking) OnSocketAccept(*engine.Session) {}
func (h *blocking) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Sub {
	case 1:
		time.Sleep(time.Duration(p.Body[0]) * time.Millisecond)
	case 2:
		_ = s.Reply(p, p.Body)
		_ = s.Send(1, 9, nil) // staged while it blocks
		time.Sleep(time.Duration(p.Body[0]) * time.Millisecond)
		return
	}
	_ = s.Reply(p, p.Body)
}
func (h *blocking) OnSocketClose(*engine.Session, engine.Reason) {}

// blockingWorld has handlers that hold up their goroutine: only their own session waits.
func blockingWorld(w *World) {
	h := &blocking{w: w}
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Workers: 1 + w.Pick(2), SpareWorkers: 16}, h)
	var clients []*Client
	for range 2 + w.Pick(4) {
		clients = append(clients, w.Dial(srv))
	}
	for range 10 + w.Pick(30) {
		c := clients[w.Pick(len(clients))]
		switch w.Pick(5) {
		case 3:
			c.Send(1, 1, []byte{byte(w.Pick(250))})
		case 4:
			c.Send(1, 2, []byte{byte(w.Pick(250))})
		default:
			c.Send(1, 3, []byte{byte(w.Pick(200))})
		}
		if w.Chance(2) {
			w.Advance(w.Between(0, 10*time.Millisecond))
		}
		if w.Chance(20) {
			c.CloseWrite()
			w.Until(c.Ended)
			for i := range clients {
				if clients[i] == c {
					clients[i] = w.Dial(srv)
				}
			}
		}
	}
	// Somebody new is served although everybody else may block, and is told what a callback
	// has sent before it blocks.
	x := w.Dial(srv)
	x.Send(1, 3, []byte("x"))
	if !w.UntilWithin(300*time.Millisecond, x.Received(1, 3)) {
		w.Fatalf("a new client was not served in 300 ms")
	}
	x.Send(1, 2, []byte{250})
	if !w.UntilWithin(150*time.Millisecond, x.Received(1, 2)) {
		w.Fatalf("what was sent in front of a sleep of 250 ms has not come in 150 ms")
	}
}

// pressureWorld has clients that ask more than they read, and limits that are small.
func pressureWorld(w *World) {
	limits := engine.Limits{MaxOutbound: 8 << 10, MaxPending: 4 << 10, MemoryBudget: 96<<10 + w.Pick(2)*(1<<20), MaxOutbox: 4 << 10}
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Limits: limits, MaxFrame: 8 << 10, Socket: engine.Socket{ReadBuffer: 4 << 10}}, pushy{})
	path := Path{SendBuffer: 4 << 10, RecvBuffer: 4 << 10}
	var clients []*Client
	for range 2 + w.Pick(3) {
		clients = append(clients, w.DialPath(srv, path))
	}
	for n := range 20 + w.Pick(60) {
		i := w.Pick(len(clients))
		c := clients[i]
		if c.Ended() {
			c = w.DialPath(srv, path)
			clients[i] = c
		}
		switch w.Pick(12) {
		case 8:
			c.Stall(true)
		case 9:
			c.Stall(false)
		case 10:
			c.Send(2, 1, number(n, 100+w.Pick(900))) // to all
		case 11:
			if w.Chance(3) {
				c.Vanish()
				clients[i] = w.DialPath(srv, path)
			} else {
				c.CloseWrite()
				clients[i] = w.DialPath(srv, path)
			}
		default:
			for range 1 + w.Pick(12) {
				c.Send(1, 1, number(n, size(w, 4000)))
			}
		}
		if w.Chance(2) {
			w.Advance(w.Between(0, 20*time.Millisecond))
		}
	}
	for _, c := range clients {
		c.Stall(false)
	}
	w.Advance(time.Second)
	for _, c := range clients {
		if !c.Ended() {
			wantEchoes(w, c, 1)
		}
	}
}

// pushy is an echo, and tells all what 2/1 says.
type pushy struct{ echo }

func (pushy) OnSocketRead(s *engine.Session, p codec.Packet) {
	if p.Main == 2 {
		_ = s.Broadcast(3, 1, p.Body)
		return
	}
	_ = s.Reply(p, p.Body)
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

// crowdWorld has more connections than there is room for: sessions, descriptors, one address.
func crowdWorld(w *World) {
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Limits: engine.Limits{MaxConns: 4, MaxRefused: 2}, Timeouts: engine.Timeouts{FirstFrameTimeout: 2 * time.Second, IdleTimeout: 3 * time.Second}}, echo{})
	var clients []*Client
	for n := range 10 + w.Pick(30) {
		if len(clients) < 12 && w.Chance(2) {
			clients = append(clients, w.Dial(srv))
		}
		if len(clients) == 0 {
			continue
		}
		i := w.Pick(len(clients))
		c := clients[i]
		switch w.Pick(8) {
		case 5:
			c.Close()
			clients = append(clients[:i], clients[i+1:]...)
		case 6:
			c.Write([]byte{0, 0, 0, 9, 0}) // the beginning of a frame
			c.life.hurt = true
		case 7:
			c.Write([]byte{255, 255, 255, 255})
		default:
			c.Send(1, 1, number(n, size(w, 500)))
		}
		w.Advance(w.Between(0, 300*time.Millisecond))
	}
}

// idleWorld has answers that take longer than a client may be idle: it is not while the
// server owes it something, and is closed, with a word, when it has been for so long.
func idleWorld(w *World) {
	const idle = 600 * time.Millisecond
	h := &logins{w: w, db: w.Database(), users: map[string]int{}}
	h.db.To = 3 * time.Second
	h.srv = w.Server(engine.Config{Dispatch: dispatch(w), Timeouts: engine.Timeouts{IdleTimeout: idle, FirstFrameTimeout: idle}}, h)
	for range 1 + w.Pick(3) {
		c := w.Dial(h.srv)
		w.Until(c.conn.Accepted)
		last, seen := w.Now(), 0
		pass := func(d time.Duration, cond func() bool) { // and note when an answer comes
			w.UntilWithin(d, func() bool {
				if n := c.answers(1) + c.answers(engine.SystemMain); n != seen && !c.Ended() {
					last, seen = w.Now(), n
				}
				return cond()
			})
		}
		n := w.Pick(4)
		for i := range n {
			c.Send(1, 1, fmt.Appendf(nil, "user %d of client %d", i, c.conn.ID()))
			last = w.Now()
			pass(w.Between(0, idle/2), c.Ended)
			if c.Ended() {
				w.Fatalf("client %d was closed in less than %v since it was heard of", c.conn.ID(), idle/2)
			}
		}
		pass(10*time.Second, func() bool { return c.Ended() || seen >= n })
		if seen < n {
			w.Fatalf("client %d was closed with %d of %d answers", c.conn.ID(), seen, n)
		}
		w.Until(c.Ended)
		// The clocks have a tick of an eighth.
		if took := w.Now() - last; took < idle*6/8 || took > 2*idle {
			w.Fatalf("client %d was closed %v after the last that was heard of it; IdleTimeout is %v", c.conn.ID(), took, idle)
		}
		if c.Count(engine.SystemMain, engine.SubError) != 1 {
			w.Fatalf("client %d was closed without a word", c.conn.ID())
		}
	}
}
