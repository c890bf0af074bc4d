package enginetest

import (
	"millrace/codec"
	"millrace/engine"
)

// resumer is the client's half of sessions that outlive their connection.
type resumer struct {
	welcome bool // it has come on this connection
	// tokens find the session: the newest, and the one before as long as the server may not
	// know that we have that.
	tokens   []codec.Token
	received uint64 // counted frames of the server's
	told     uint64
	kept     []codec.Packet // counted frames of ours that the server may not have
	keptFrom uint64         // the number of the first
	fresh    *life          // of the session, if the server does not go on with the old one
	asked    codec.Token    // in this connection's HELLO
	last     bool           // there is no other token to try
	strange  bool           // the server does not know this one, and there is another
	lost     int            // sessions that the server did not go on with
}

// ackEvery is how many frames are acknowledged at once.
const ackEvery = 16

// DialResume is Dial for a session that outlives its connection (Config.Resume): it waits for
// the server's WELCOME. What Send is given is sent again behind a Reconnect where the server
// has not had it.
func (w *World) DialResume(srv *Server) *Client { return w.DialResumeBy(srv, Way{}) }

// DialResumeBy is DialResume by another way.
func (w *World) DialResumeBy(srv *Server, way Way) *Client {
	c := w.DialBy(srv, way)
	c.resume = &resumer{}
	c.hello(codec.Hello{})
	c.waitWelcome()
	return c
}

func (c *Client) hello(h codec.Hello) {
	b, err := c.codec.Append(nil, codec.Packet{Sub: engine.SubHello, Body: c.codec.AppendHello(nil, h)})
	c.w.Check(err)
	c.transmit(b)
}

func (c *Client) waitWelcome() {
	c.w.Until(func() bool { return c.resume.welcome || c.Ended() })
}

// Reconnect connects once more and goes on with the session; it tells whether the server did
// too. If not, it is a new session, and what the server may not have had is forgotten. Where
// the connection breaks before the server has said so it is not resumed either; then call it
// again.
func (c *Client) Reconnect() (resumed bool) { return c.ReconnectBy(c.way) }

// ReconnectBy is Reconnect by another way.
func (c *Client) ReconnectBy(way Way) (resumed bool) {
	c.way = c.w.checked(c.srv, way)
	r, lost := c.resume, c.resume.lost
	for _, token := range append([]codec.Token(nil), r.tokens...) {
		r.welcome = false
		r.fresh = &life{client: c}
		r.asked = token
		r.last = token == r.tokens[len(r.tokens)-1]
		old := c.life
		c.life = r.fresh // the server makes a new session of it when it accepts one
		c.connect()
		c.life = old
		c.hello(codec.Hello{Resume: true, Token: token, Received: r.received})
		c.w.Until(func() bool { return r.welcome || r.strange || c.Ended() })
		if !r.strange {
			break
		}
		r.strange = false
		c.harm()
		c.conn.SendReset()
	}
	return r.welcome && r.lost == lost
}

// sendCounted is Send for a frame that is to reach the session also if this connection breaks.
func (c *Client) sendCounted(main, sub uint16, body []byte) {
	p := codec.Packet{Main: main, Sub: sub, Body: body}.Clone()
	c.life.sent = append(c.life.sent, p)
	c.resume.kept = append(c.resume.kept, p)
	if !c.hurt && c.resume.welcome {
		c.put(p)
	}
}

func (c *Client) put(p codec.Packet) {
	b, err := c.codec.Append(nil, p)
	c.w.Check(err)
	c.transmit(b)
}

// resumed takes a frame that is part of the protocol of such sessions; false: it is not.
func (c *Client) resumed(p codec.Packet) bool {
	r := c.resume
	if p.Main == engine.SystemMain && p.Sub == engine.SubWelcome {
		w, ok := c.codec.ParseWelcome(p.Body)
		if !ok {
			c.w.Errorf("client %d: a WELCOME of %x", c.conn.ID(), p.Body)
			return true
		}
		c.welcomed(w)
		return true
	}
	if p.Main == engine.SystemMain && p.Sub == engine.SubPong && len(r.tokens) > 1 {
		r.tokens = r.tokens[:1]
	}
	if p.Main == engine.SystemMain && p.Sub == engine.SubAck {
		n, ok := c.codec.ParseCount(p.Body)
		if !ok {
			c.w.Errorf("client %d: an ACK of %x", c.conn.ID(), p.Body)
		}
		c.forget(n)
		return true
	}
	if p.Main != engine.SystemMain || p.Sub == engine.SubError {
		r.received++
		if r.received-r.told >= ackEvery && !c.hurt {
			r.told = r.received
			c.put(codec.Packet{Sub: engine.SubAck, Body: c.codec.AppendCount(nil, r.received)})
		}
	}
	return false
}

func (c *Client) welcomed(w codec.Welcome) {
	r := c.resume
	switch {
	case r.welcome:
		c.w.Errorf("client %d: a second WELCOME", c.conn.ID())
	case r.fresh == nil: // the first connection
		r.tokens = []codec.Token{w.Token}
	case !w.Resumed && !r.last:
		r.strange = true
		return
	case !w.Resumed:
		c.life.hurt = true
		c.life = r.fresh
		r.received, r.told, r.kept, r.keptFrom = 0, 0, nil, 0
		r.tokens = []codec.Token{w.Token}
		r.lost++
	default:
		c.forget(w.Received)
		r.tokens = []codec.Token{w.Token, r.asked}
		c.put(codec.Packet{Sub: engine.SubPing}) // its PONG tells that the older token is used up
	}
	r.welcome, r.told = true, r.received
	for _, p := range r.kept {
		c.put(p)
	}
}

// forget drops what the server has had.
func (c *Client) forget(n uint64) {
	r := c.resume
	if n < r.keptFrom || n > r.keptFrom+uint64(len(r.kept)) {
		c.w.Errorf("client %d: the server has had %d frames, but %d to %d were sent", c.conn.ID(), n, r.keptFrom, r.keptFrom+uint64(len(r.kept)))
		return
	}
	r.kept = r.kept[n-r.keptFrom:]
	r.keptFrom = n
}
