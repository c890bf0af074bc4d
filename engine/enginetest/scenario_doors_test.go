package enginetest

import (
	"crypto/tls"
	"time"

	"millrace/engine"
)

// doors are addresses that want something in front of the frames, and one that does not.
var doors = []string{"tcp://10.0.0.1:7000", "tls://10.0.0.1:7001", "ws://10.0.0.1:7002/way", "wss://10.0.0.1:7003/way", "auto://10.0.0.1:7004"}

// anyDoor is a way to one of them.
func anyDoor(w *World) Way {
	return Way{Addr: w.Pick(len(doors)), TLS: w.Chance(2), WebSocket: w.Chance(2)}
}

// doorsWorld has clients that come through TLS and WebSocket: they are served as all others
// are, and those that stop in the middle of what stands in front of a frame are not kept.
func doorsWorld(w *World) {
	cfg := engine.Config{
		Addrs: doors, Dispatch: dispatch(w), DrainBudget: 1 + w.Pick(8),
		Doors:    engine.Doors{TLS: w.TLS(), Deflate: w.Chance(2), MaxHandshakes: 1 + w.Pick(8)},
		Timeouts: engine.Timeouts{FirstFrameTimeout: 8 * time.Second, FrameTimeout: 2 * time.Second},
	}
	if w.Chance(3) {
		cfg.TLS.MaxVersion = tls.VersionTLS12
	}
	srv := w.Server(cfg, herald{})
	var clients []*Client
	for range 2 + w.Pick(5) {
		clients = append(clients, w.DialBy(srv, anyDoor(w)))
	}
	var halves []*Client
	for n := range 10 + w.Pick(40) {
		i := w.Pick(len(clients))
		c := clients[i]
		switch w.Pick(16) {
		case 9:
			c.Send(2, 1, number(n, size(w, 3000))) // to all
		case 10:
			c.Stall(w.Chance(2))
		case 11: // at any moment of the handshake too
			c.Reset()
			clients[i] = w.DialBy(srv, anyDoor(w))
		case 12:
			x := w.DialBy(srv, anyDoor(w))
			x.cut(w)
			halves = append(halves, x)
		case 13, 14:
			c.Stall(false)
			c.CloseWrite()
			wantEchoes(w, c, 1)
			wantEchoes(w, c, 2)
			w.Until(c.Ended)
			clients[i] = w.DialBy(srv, anyDoor(w))
		default:
			for range 1 + w.Pick(4) {
				c.Send(1, uint16(w.Pick(3)), number(n, size(w, 30_000)))
			}
		}
		if w.Chance(3) {
			w.Advance(w.Between(0, 2*time.Millisecond))
		}
	}
	for _, c := range clients {
		c.Stall(false)
	}
	for _, c := range clients {
		wantEchoes(w, c, 1)
		wantEchoes(w, c, 2)
	}
	for _, c := range halves {
		w.Until(func() bool { return c.Ended() || !c.conn.Lost() })
	}
}

// cut sends the beginning of what the client's way and frames would be, and no more.
func (c *Client) cut(w *World) {
	most := 60
	if c.layers != nil {
		most = 2000
	}
	c.conn.Cut(1 + w.Pick(most))
	c.Send(1, 1, make([]byte, 100))
	c.harm()
}
