package enginetest

import (
	"time"

	"millrace/codec"
	"millrace/engine"
)

// generous answers 1 with as many KiB as the body's first byte says, tells a group with 2 and
// everybody with 3.
type generous struct{ all *engine.Group }

func (h *generous) OnSocketAccept(s *engine.Session) { _, _ = h.all.Join(s) }
func (h *generous) OnSocketRead(s *engine.Session, p codec.Packet) {
	body := make([]byte, int(p.Body[0])<<10)
	switch p.Main {
	case 1:
		_ = s.Reply(p, body)
	case 2:
		_, _ = s.SendGroup(h.all, 5, 1, body)
	case 3:
		_ = s.Broadcast(5, 1, body)
	}
}
func (h *generous) OnSocketClose(*engine.Session, engine.Reason) {}

// memoryWorld has clients that make the server hold as much as they can, and a budget that is
// much smaller: it holds for all that is held, is there again when it was exceeded, though
// nobody goes on reading, and somebody new is served then.
func memoryWorld(w *World) {
	const budget = 512 << 10
	h := &generous{}
	srv := w.Server(engine.Config{
		Dispatch: dispatch(w), MaxFrame: 128 << 10,
		Limits: engine.Limits{MemoryBudget: budget, MaxOutbound: 64 << 10 << (4 * w.Pick(2)), MaxPending: 32 << 10},
		Socket: engine.Socket{ReadBuffer: 8 << 10},
	}, h)
	h.all = srv.Group("all")
	path := Path{SendBuffer: 4 << 10, RecvBuffer: 4 << 10}
	var clients []*Client
	for range 8 + w.Pick(16) {
		c := w.DialPath(srv, path)
		c.Stall(w.Chance(2))
		c.life.hurt = true // it may be closed for what it does
		clients = append(clients, c)
	}
	most, since := 0, w.Now()
	look := func() {
		n := srv.Stats().Memory
		if most = max(most, n); n <= budget {
			since = w.Now()
		}
		if over := w.Now() - since; over > 16*time.Second { // it may be 10, and who is looked at has 5
			w.Fatalf("%d bytes are held, the budget has been %d for %v", n, budget, over)
		}
	}
	for range 20 + w.Pick(60) {
		c := clients[w.Pick(len(clients))]
		switch kind := w.Pick(5); kind {
		case 0: // the beginning of a large frame
			c.Write(append([]byte{0, 1, 128, 0, 0, 4, 0, 1}, make([]byte, w.Pick(90<<10))...))
		case 1, 2:
			for range 1 + w.Pick(8) {
				c.Send(1, 1, []byte{byte(1 + w.Pick(30))})
			}
		default:
			c.Send(uint16(kind-1), 1, []byte{byte(1 + w.Pick(8))})
		}
		w.Advance(w.Between(0, 30*time.Millisecond))
		look()
	}
	for range 100 {
		w.Advance(200 * time.Millisecond)
		look()
	}
	if most > 2*budget {
		w.Fatalf("%d bytes were held, the budget is %d", most, budget)
	}
	x := w.DialPath(srv, path)
	x.Send(1, 1, []byte{1})
	x.Next(1, 1)
}
