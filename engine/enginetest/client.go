package enginetest

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"millrace/codec"
	"millrace/engine"
	"millrace/engine/internal/simnet"
)

// Client is a peer of a server: one connection, or with DialResume several, one after another. It
// reads all the time, except after Stall. Its methods are called as World's are.
type Client struct {
	w     *World
	srv   *Server
	way   Way
	conn  *simnet.Conn
	codec *codec.Codec

	layers *layers // protocols around the frames; nil: none

	in     []byte // received bytes of an incomplete frame
	frames []codec.Packet
	next   int // the first of them that Next has not returned
	life   *life
	hurt   bool // something was done to the connection after which not everything arrives
	finned bool
	silent bool // nothing arrives any more
	ended  bool // the ERROR about a bad frame has arrived
	// answered: the server's FIN has come, and was answered or not; over: it was.
	answered, over bool

	resume *resumer // nil: the session ends with its connection
}

// life is one session from its client's side: what it has sent.
type life struct {
	client *Client
	raw    []byte         // sent bytes of an incomplete frame
	sent   []codec.Packet // frames for the handler
	broken bool           // what was sent is not valid frames any more
	finned bool           // the FIN follows them
	hurt   bool           // not all of it need arrive
}

// Dial connects to the server's first address.
func (w *World) Dial(srv *Server) *Client { return w.DialPath(srv, w.path) }

// DialPath is Dial with a given Path.
func (w *World) DialPath(srv *Server, p Path) *Client { return w.DialBy(srv, Way{Path: p}) }

func (w *World) newClient(srv *Server, way Way) *Client {
	max := srv.cfg.MaxFrame
	or(&max, 64<<10)
	c, err := codec.New(srv.cfg.Layout, max)
	w.Check(err)
	x := &Client{w: w, srv: srv, way: w.checked(srv, way), codec: c}
	x.life = &life{client: x}
	w.clients = append(w.clients, x)
	return x
}

func (c *Client) connect() {
	c.layers.end() // of the connection before
	p := c.way.Path
	c.conn = c.srv.net.Dial(c.way.Addr, simnet.Traits{Latency: p.Latency, Jitter: p.Jitter, SendBuffer: p.SendBuffer, RecvBuffer: p.RecvBuffer, Rate: p.Rate})
	c.in, c.hurt, c.finned, c.ended, c.answered, c.over, c.silent = nil, false, false, false, false, false, false
	c.srv.check.expect(c.conn.RemoteAddr().String(), c.life)
	c.layers = c.way.layers(c)
}

// Send sends a frame. The body is copied.
func (c *Client) Send(main, sub uint16, body []byte) {
	if c.resume != nil && main != engine.SystemMain {
		c.sendCounted(main, sub, body)
		return
	}
	b, err := c.codec.Append(nil, codec.Packet{Main: main, Sub: sub, Body: body})
	c.w.Check(err)
	c.Write(b)
}

// Write sends bytes, which need not be frames. They are copied.
func (c *Client) Write(b []byte) {
	if !c.hurt && !c.finned && !c.over {
		c.life.add(b)
	}
	c.transmit(b)
}

// add records what is sent.
func (l *life) add(b []byte) {
	if l.broken {
		return
	}
	l.raw = append(l.raw, b...)
	for {
		p, size, missing, err := l.client.codec.Decode(l.raw)
		if err != nil {
			l.broken, l.raw = true, nil
		}
		if err != nil || size == 0 || missing > 0 {
			return
		}
		if p.Main != engine.SystemMain || l.client.srv.cfg.NoSystemFrames {
			l.sent = append(l.sent, p.Clone())
		}
		l.raw = l.raw[size:]
	}
}

// CloseWrite ends the client's requests with a FIN or, for a client that uses TLS or WebSocket,
// with a close_notify or close frame, a FIN alone, or both. The client continues to read.
func (c *Client) CloseWrite() {
	c.finned = true
	c.life.finned = true
	if c.layers == nil {
		c.conn.SendFIN()
		return
	}
	c.layers.closeWrite(ending(c.w.Pick(int(endsOfAll))))
}

// harm records that not everything in flight need arrive.
func (c *Client) harm() {
	c.hurt = true
	if c.resume == nil {
		c.life.hurt = true
	}
}

// Close closes the connection as the end of a process does: unread data is lost.
func (c *Client) Close() {
	c.harm()
	c.conn.Shut()
}

// Reset resets the connection.
func (c *Client) Reset() {
	c.harm()
	c.conn.SendReset()
}

// Vanish makes the network lose everything from now on, in both directions.
func (c *Client) Vanish() {
	c.harm()
	c.conn.Vanish()
}

// Stall makes the client stop reading, or continue.
func (c *Client) Stall(stall bool) { c.conn.Stall(stall) }

// Connected reports whether the server has accepted the connection and the client has not seen its
// end.
func (c *Client) Connected() bool { return c.conn.Accepted() && !c.Ended() }

// Ended reports whether the client has seen that the server closed the connection: a FIN after all
// data, or a reset.
func (c *Client) Ended() bool {
	fin, reset := c.conn.Ended()
	return fin || reset
}

// WasReset reports whether the connection was reset.
func (c *Client) WasReset() bool {
	_, reset := c.conn.Ended()
	return reset
}

// read processes what has arrived.
func (c *Client) read() {
	if c.layers != nil {
		c.layers.begin()
	}
	b := c.conn.Take()
	if len(b) == 0 {
		c.answerFIN()
		return
	}
	if c.layers != nil {
		b = c.layers.received(b)
	}
	c.decode(b)
}

// decode splits received bytes into frames.
func (c *Client) decode(b []byte) {
	c.in = append(c.in, b...)
	for len(c.in) > 0 {
		p, size, missing, err := c.codec.Decode(c.in)
		if err != nil {
			c.w.Errorf("client %d was sent no frame: %v", c.conn.ID(), err)
			return
		}
		if size == 0 || missing > 0 {
			if x := c.layers; x != nil && x.ws != nil {
				c.w.Errorf("client %d was sent a WebSocket message that ends in the middle of a frame", c.conn.ID())
			}
			return
		}
		if c.ended {
			c.w.Errorf("client %d was sent %d/%d behind the ERROR about a bad frame, which is the last frame", c.conn.ID(), p.Main, p.Sub)
		}
		c.ended = isLast(p) && !c.srv.cfg.NoSystemFrames
		p = p.Clone()
		c.in = c.in[size:]
		if c.resume != nil && c.resumed(p) {
			continue
		}
		c.frames = append(c.frames, p)
	}
}

// isLast reports whether p is an ERROR after which nothing follows: that about a bad frame.
func isLast(p codec.Packet) bool {
	return p.Main == engine.SystemMain && p.Sub == engine.SubError && len(p.Body) >= 6 &&
		binary.BigEndian.Uint16(p.Body) == uint16(engine.CodeBadFrame) && binary.BigEndian.Uint32(p.Body[2:]) == 0
}

// answerFIN closes the connection when the server has, as most clients do.
func (c *Client) answerFIN() {
	fin, reset := c.conn.Ended()
	if c.silent = fin || reset; c.silent && c.layers != nil {
		c.decode(c.layers.rest())
	}
	if fin && !c.answered {
		c.answered = true
		if !c.w.Chance(4) {
			c.over = true
			c.conn.Shut()
		}
	}
}

// Frames returns all received frames, in order. They must not be changed, and stay valid when more
// arrive.
func (c *Client) Frames() []codec.Packet { return c.frames }

// Count returns how many frames of a handle have arrived.
func (c *Client) Count(main, sub uint16) (n int) {
	for _, p := range c.frames {
		if p.Main == main && p.Sub == sub {
			n++
		}
	}
	return n
}

// Received returns a condition for Until: a frame of that handle has arrived that Next has not
// returned.
func (c *Client) Received(main, sub uint16) func() bool {
	return func() bool { return c.find(main, sub) >= 0 }
}

func (c *Client) find(main, sub uint16) int {
	for i := c.next; i < len(c.frames); i++ {
		if p := c.frames[i]; p.Main == main && p.Sub == sub {
			return i
		}
	}
	return -1
}

// Next waits for a frame of that handle and returns it; the frame stays valid. Frames before it are
// skipped. Next fails the run as Until does.
func (c *Client) Next(main, sub uint16) codec.Packet {
	if !c.w.UntilWithin(c.w.opt.Patience, c.Received(main, sub)) {
		c.w.Fatalf("client %d: no frame %d/%d in %v; since the last one there came %s", c.conn.ID(), main, sub, c.w.opt.Patience, c.brief())
	}
	i := c.find(main, sub)
	c.next = i + 1
	return c.frames[i]
}

// Want is Next, and fails the run if the body differs.
func (c *Client) Want(main, sub uint16, body []byte) {
	if p := c.Next(main, sub); !bytes.Equal(p.Body, body) {
		c.w.Fatalf("client %d: got %d/%d %.100q, want %.100q", c.conn.ID(), main, sub, p.Body, body)
	}
}

// brief lists the frames that Next has not returned.
func (c *Client) brief() string {
	if c.next == len(c.frames) {
		return "none"
	}
	s := ""
	for i, p := range c.frames[c.next:] {
		if i == 8 {
			return s + fmt.Sprintf(" and %d more", len(c.frames)-c.next-i)
		}
		s += fmt.Sprintf(" %d/%d %.32q", p.Main, p.Sub, p.Body)
	}
	return s[1:]
}
