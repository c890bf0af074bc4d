package enginetest

import (
	"fmt"
	"time"

	"millrace/engine"
)

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

// filesWorld has clients that send a FIN while their answers wait for them, at a moment when
// others of the process have taken all descriptors: the sessions end all the same.
func filesWorld(w *World) {
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Limits: engine.Limits{MaxConns: 16, MaxOutbound: 8 << 10}}, library{})
	path, all := Path{SendBuffer: 4 << 10, RecvBuffer: 4 << 10}, w.files.Load()
	var clients []*Client
	for range 1 + w.Pick(4) {
		c := w.DialPath(srv, path)
		w.Until(c.conn.Accepted)
		c.Stall(w.Chance(2))
		clients = append(clients, c)
	}
	w.files.Store(0)
	for _, c := range clients {
		for range 1 + w.Pick(3) {
			c.Send(1, 1, []byte{byte(1 + w.Pick(40))})
		}
		w.Advance(w.Between(0, time.Millisecond))
		c.harm() // what it is owed may be lost
		c.CloseWrite()
	}
	w.Advance(time.Second)
	w.files.Store(all)
	for _, c := range clients {
		c.Stall(false)
	}
	w.Until(func() bool { return srv.Stats().Conns == 0 })
	w.Advance(time.Second) // the server looks what is free now and then
	x := w.Dial(srv)
	x.Send(1, 1, []byte{3})
	w.Until(func() bool { return x.answers(1) == 3 })
}
