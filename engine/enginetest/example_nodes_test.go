package enginetest_test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/engine/enginetest"
)

// relay is a room that stands on several servers: 1/7 tells it something, which everybody
// hears as 1/8. What the others have not acknowledged is sent again.
type relay struct {
	w    *enginetest.World
	room *engine.Group
	node *enginetest.BusNode

	mu    sync.Mutex
	peers map[string]*peer // guarded by mu; by their names
}

// peer is another server, as this one sees it.
type peer struct {
	words [][]byte // to it, all
	acked int      // of them, those that it has had
	heard int      // words of its
}

const (
	isWord = 1 // its number, and the word
	isAck  = 2 // how many words were heard
)

func (r *relay) OnSocketAccept(s *engine.Session) { _, _ = r.room.Join(s) }

func (r *relay) OnSocketRead(s *engine.Session, p codec.Packet) {
	_, _ = s.SendGroup(r.room, 1, 8, p.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, x := range r.peers {
		x.words = append(x.words, append([]byte(nil), p.Body...))
		r.tell(name, x, len(x.words)-1)
	}
}

func (r *relay) OnSocketClose(*engine.Session, engine.Reason) {}

func (r *relay) tell(name string, x *peer, n int) {
	msg := binary.BigEndian.AppendUint32([]byte{isWord}, uint32(n))
	r.node.Send(name, append(msg, x.words[n]...))
}

// heard takes a message of another server's, on the pool.
func (r *relay) heard(from string, msg []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, n := r.peers[from], int(binary.BigEndian.Uint32(msg[1:]))
	switch {
	case msg[0] == isAck:
		x.acked = max(x.acked, n)
		return
	case n == x.heard:
		x.heard++
		_, _ = r.room.Send(1, 8, msg[5:])
	}
	r.node.Send(from, binary.BigEndian.AppendUint32([]byte{isAck}, uint32(x.heard)))
}

// again sends what was not acknowledged, and goes on doing so.
func (r *relay) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, x := range r.peers {
		for n := x.acked; n < len(x.words); n++ {
			r.tell(name, x, n)
		}
	}
}

// Two servers share a room over a bus that loses and duplicates messages. The connection between
// them is cut, and one of them is suspended for a while. Every member gets each message once, and
// those of one sender in order.
func TestRoomOnTwoServers(t *testing.T) {
	enginetest.Run(t, enginetest.Options{Seeds: 50}, func(w *enginetest.World) {
		bus := w.Bus()
		bus.Lost, bus.Doubled = 5, 5
		names := []string{"east", "west"}
		var relays []*relay
		var servers []*enginetest.Server
		var clients []*enginetest.Client
		for i, name := range names {
			r := &relay{w: w, peers: map[string]*peer{names[1-i]: {}}}
			srv := w.Server(engine.Config{}, r)
			r.room = srv.Group("room")
			r.node = bus.Join(name, srv.Pool(), r.heard)
			relays, servers = append(relays, r), append(servers, srv)
			clients = append(clients, w.Dial(srv), w.Dial(srv))
		}
		for _, r := range relays {
			w.Until(func() bool { return r.room.Len() == 2 })
		}
		said := 0
		for range 10 + w.Pick(20) {
			i := w.Pick(2)
			switch w.Pick(6) {
			case 0:
				relays[0].node.Part("west", w.Chance(2))
			case 1:
				servers[i].Pause(true)
				relays[i].node.Pause(true)
				w.Advance(w.Between(0, time.Second))
				servers[i].Pause(false)
				relays[i].node.Pause(false)
			default:
				c := w.Pick(len(clients))
				clients[c].Send(1, 7, fmt.Appendf(nil, "%d %d", c, said))
				said++
			}
			w.Advance(w.Between(0, 20*time.Millisecond))
		}
		relays[0].node.Part("west", false)
		for range 200 {
			w.Advance(50 * time.Millisecond)
			for _, r := range relays {
				r.again()
			}
		}
		for i, c := range clients {
			last := map[int]int{}
			for _, p := range c.Frames() {
				var from, n int
				if _, err := fmt.Sscanf(string(p.Body), "%d %d", &from, &n); err != nil {
					continue // a PING
				}
				if was, some := last[from]; some && n <= was {
					w.Fatalf("client %d hears word %d of client %d behind word %d", i, n, from, was)
				}
				last[from] = n
			}
			if got := c.Count(1, 8); got != said {
				w.Fatalf("client %d has heard %d of %d words", i, got, said)
			}
		}
	})
}
