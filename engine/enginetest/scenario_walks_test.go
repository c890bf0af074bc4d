package enginetest

import (
	"bytes"
	"encoding/binary"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// herald is an echo, and tells all what 2/1 says.
type herald struct{ echo }

func (herald) OnSocketRead(s *engine.Session, p codec.Packet) {
	if p.Main == 2 {
		_ = s.Broadcast(3, 1, p.Body)
	}
	_ = s.Reply(p, p.Body)
}

// listener is a client that hears broadcasts.
type listener struct {
	*Client
	said, from, asks int // words of its own; words from outside before it was there; questions
}

// walksWorld has many more sessions than a loop looks at in one turn, so that handing a
// broadcast out takes many turns, between which clients ask, leave, stop reading and go on, and
// clocks are swept. Who stays hears all that is said from then on, once and in its order.
func walksWorld(w *World) {
	srv := w.Server(engine.Config{
		Dispatch: dispatch(w), Loops: 1 + w.Pick(2), DrainBudget: 1 + w.Pick(3),
		Limits:   engine.Limits{MaxConns: 64},
		Timeouts: engine.Timeouts{Linger: 80 * time.Millisecond}, // so clocks are swept every 10 ms
	}, herald{})
	narrow := Path{SendBuffer: 128, RecvBuffer: 128} // full after a few words
	words := 0
	dial := func() *listener {
		path := Path{}
		if w.Chance(2) {
			path = narrow
		}
		c := &listener{Client: w.DialPath(srv, path)}
		w.Until(c.conn.Accepted)
		c.from = words
		return c
	}
	var all []*listener
	for range 16 + w.Pick(24) {
		all = append(all, dial())
	}
	for range 20 + w.Pick(40) {
		i := w.Pick(len(all))
		c := all[i]
		switch w.Pick(12) {
		case 0:
			c.Reset()
			all[i] = dial()
		case 1, 2, 3:
			c.Stall(true)
		case 4:
			c.Stall(false)
		case 5, 6, 7:
			words++
			w.Check(srv.Broadcast(3, 2, word(0, words)))
		case 8, 9:
			c.said++
			c.Send(2, 1, word(c.conn.ID(), c.said))
		default:
			c.asks++
			c.Send(1, 1, number(c.asks, size(w, 300)))
		}
		if w.Chance(2) {
			w.Advance(w.Between(0, 8*time.Millisecond))
		}
	}
	for _, c := range all {
		c.Stall(false)
	}
	for _, c := range all {
		wantEchoes(w, c.Client, 1)
		wantEchoes(w, c.Client, 2)
		w.Until(func() bool { return c.Count(3, 2) >= words-c.from })
		c.wantWords(words)
	}
}

// word is the n-th that a client says, or 0, who is none; its length depends on n.
func word(from, n int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(from))
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return append(b, bytes.Repeat([]byte{byte(n)}, n*37%90)...)
}

// wantWords holds that a client that stays has heard each speaker's words without a gap, and
// those from outside to the last.
func (c *listener) wantWords(words int) {
	last := map[int]int{}
	for _, p := range c.Frames() {
		if p.Main != 3 {
			continue
		}
		from, n := int(binary.BigEndian.Uint16(p.Body)), int(binary.BigEndian.Uint16(p.Body[2:]))
		if was, some := last[from]; some && n != was+1 || !bytes.Equal(p.Body, word(from, n)) {
			c.w.Fatalf("client %d hears word %d of %d behind %d: %q", c.conn.ID(), n, from, was, p.Body)
		}
		if _, some := last[from]; from == 0 && !some && n > c.from+1 {
			c.w.Fatalf("client %d was there after %d words and hears word %d first", c.conn.ID(), c.from, n)
		}
		last[from] = n
	}
	if words > c.from && last[0] != words {
		c.w.Fatalf("client %d has heard word %d of %d", c.conn.ID(), last[0], words)
	}
}
