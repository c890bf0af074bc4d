package enginetest

import (
	"time"

	"millrace/codec"
	"millrace/engine"
)

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
	for n := range 15 + w.Pick(30) {
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
