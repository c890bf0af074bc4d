package door

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"net"
)

const (
	// inflatePiece is how much the session gets at once of what inflates, in bytes.
	inflatePiece = 16 << 10
	// inflateTurn is how much of one connection inflates before the loop looks after others.
	inflateTurn = 256 << 10
	// inflateFree is how much may inflate on a connection whatever the ratio.
	inflateFree = 16 << 20
	// inflateRest is how much may inflate of what a client has left behind that has gone.
	inflateRest = 4 << 20
	// inflaterCost is about what an inflater and its goroutine take, in bytes.
	inflaterCost = 72 << 10
)

var (
	// inflateEnd is what a message is followed by to inflate whole: the end of its last
	// flush, and an empty block that says that it was the last.
	inflateEnd = []byte{0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff}

	errMore     = errors.New("door: the message continues") // and nothing more of it is here
	errDeflate  = errors.New("door: bytes after the last block of a compressed message")
	errInflated = errors.New("door: a message inflates to too many bytes for its size")
)

// inflating is what a connection inflates. Between two messages it holds nothing; it holds
// no more of one than has come in one read and compress/flate needs. Loop goroutine.
type inflating struct {
	box  *inflater // of the message under way
	in   uint64    // bytes received in compressed messages
	out  uint64    // bytes that they have become
	left int       // bytes that may still inflate in this turn
	cut  bool      // too much was left behind by a client that has gone

	// waits: the rest below waits until the session reads on, or for the loop's next turn.
	waits   bool
	rest    []byte // of the compressed message
	over    bool   // its end stands behind rest
	raw     []byte // what was received behind that
	ended   bool   // nothing of the stream is behind raw
	fin     bool   // the peer's end was behind it
	counted int    // bytes of rest and raw, in the budget
}

// inflater takes one message. compress/flate wants to read from something that blocks: where
// the message is not all there a goroutine does, which stands still until more has come.
type inflater struct {
	fr     io.ReadCloser
	buf    []byte
	b      []byte // what is not inflated
	over   bool   // no more of the message comes
	tailed bool   // b is of inflateEnd

	turn, back chan struct{} // the goroutine's; nil: there is none
	n          int
	err        error
	shut       bool // the goroutine has to end, in the middle of the message
}

func newInflater() *inflater {
	x := &inflater{buf: make([]byte, inflatePiece)}
	x.fr = flate.NewReader(x)
	return x
}

// next inflates a piece into buf: errMore when nothing more can be told, io.EOF at the
// message's end. n may be above 0 with both.
func (x *inflater) next() (n int, err error) {
	if x.turn == nil && !x.over {
		if len(x.b) == 0 {
			return 0, errMore
		}
		x.turn, x.back = make(chan struct{}), make(chan struct{})
		go x.run()
	}
	if x.turn == nil {
		return x.read()
	}
	x.turn <- struct{}{}
	<-x.back
	return x.n, x.err
}

// run is the goroutine. It works only while next waits for it.
func (x *inflater) run() {
	for range x.turn {
		n, err := x.read()
		if x.shut {
			return
		}
		x.n, x.err = n, err
		x.back <- struct{}{}
	}
}

// await has next return for want of input; false: it is the end.
func (x *inflater) await() bool {
	x.n, x.err = 0, errMore
	x.back <- struct{}{}
	_, ok := <-x.turn
	x.shut = !ok
	return ok
}

// end ends the goroutine. Where the message has not ended it may still have the inflater.
func (x *inflater) end(whole bool) {
	if x.turn != nil {
		close(x.turn)
	}
	if whole {
		x.turn, x.back, x.b, x.over, x.tailed = nil, nil, nil, false, false
	}
}

func (x *inflater) read() (n int, err error) {
	for {
		n, err = x.fr.Read(x.buf)
		switch {
		case err != io.EOF:
			return n, err
		case x.tailed && len(x.b) > 0:
			return n, errDeflate
		case x.tailed || !x.some(): // the client's own last block may end the message
			return n, io.EOF
		}
		// It may go on behind such a block too (RFC 7692, section 7.2.3.4).
		if err := x.fr.(flate.Resetter).Reset(x, nil); err != nil || n > 0 {
			return n, err
		}
	}
}

// some waits until more of the message is there; false: there is no more.
func (x *inflater) some() bool {
	for len(x.b) == 0 && !x.over {
		if !x.await() {
			return false
		}
	}
	return len(x.b) > 0
}

// fill is some, with what follows the message.
func (x *inflater) fill() error {
	if x.some() {
		return nil
	}
	if !x.over {
		return net.ErrClosed
	}
	if x.tailed {
		return io.EOF
	}
	x.b, x.tailed = inflateEnd, true
	return nil
}

// Read and ReadByte are compress/flate's view of the message.
func (x *inflater) Read(p []byte) (int, error) {
	if err := x.fill(); err != nil {
		return 0, err
	}
	n := copy(p, x.b)
	x.b = x.b[n:]
	return n, nil
}

func (x *inflater) ReadByte() (byte, error) {
	if err := x.fill(); err != nil {
		return 0, err
	}
	c := x.b[0]
	x.b = x.b[1:]
	return c, nil
}

// deflatedFrames is frames where messages may be compressed.
func (c *conn) deflatedFrames(b []byte) {
	z := &c.x.z.inflating
	if z.waits {
		z.raw = append(z.raw, b...)
		z.count(c)
		return
	}
	if !c.taking() {
		z.left = inflateTurn
	}
	if !c.unpack(b) {
		return
	}
	if c.x.waits() {
		_ = c.flush()
	}
}

// unpack brings the session what b is; false: a part of it waits, or the stream has ended.
func (c *conn) unpack(b []byte) bool {
	z := &c.x.z.inflating
	for len(b) > 0 {
		e, in := wsEnd{c: c}, &c.ws.in
		payload, used, ended := in.feed(b, &e, &c.l.room)
		b = b[used:]
		if ended && !c.hasCode {
			c.code, c.hasCode = e.code, true
		}
		switch {
		case !in.packed:
			c.deliver(payload)
		case len(payload) == 0 && !in.over:
		case !c.inflate(payload, in.over):
			if z.waits {
				z.raw, z.ended = bytes.Clone(b), ended
				z.count(c)
			}
			return false
		}
		if c.phase != open || !c.up && !c.taking() {
			return false
		}
		if ended {
			c.peerDone()
			return false
		}
	}
	return true
}

// inflate brings the session what a piece of a compressed message becomes; over: it is the
// last. False: the rest waits, or the stream has ended.
func (c *conn) inflate(b []byte, over bool) bool {
	z := &c.x.z.inflating
	if z.box == nil {
		z.box = c.l.h.inflaters.Get().(*inflater)
		_ = z.box.fr.(flate.Resetter).Reset(z.box, nil) // it never fails
		c.l.h.cfg.Budget.Add(inflaterCost)
	}
	x := z.box
	z.in += uint64(len(b))
	x.b, x.over = b, over
	for {
		switch {
		case c.taking() && z.left <= 0:
			z.cut = true
			c.noTake()
			return false
		case !c.taking() && (c.masked || z.left <= 0):
			z.wait(c)
			return false
		}
		n, err := x.next()
		z.out += uint64(n)
		z.left -= n
		c.deliver(x.buf[:n])
		if c.phase != open || !c.up && !c.taking() {
			return false
		}
		if most := c.l.h.cfg.MaxRatio; most > 0 && z.out > inflateFree && z.out > uint64(most)*z.in {
			err = errInflated
		}
		switch err {
		case nil:
		case errMore:
			return true
		case io.EOF:
			z.drop(c, true)
			c.l.h.st.inflated.Add(1)
			return true
		default:
			z.drop(c, false)
			c.badDeflate(err)
			return false
		}
	}
}

// badDeflate ends a stream that does not inflate, or becomes far too much.
func (c *conn) badDeflate(err error) {
	c.l.h.st.badDeflates.Add(1)
	code := uint16(1007)
	if err == errInflated {
		code = 1008
	}
	c.setCode(code)
	c.peerDone()
}

// wait keeps the rest of a piece until the session reads on, or the loop's next turn.
func (z *inflating) wait(c *conn) {
	z.waits, z.over = true, z.box.over
	if !z.box.tailed { // else what is left is nobody's but the inflater's
		z.rest = bytes.Clone(z.box.b)
	}
	c.mask()
	if !c.masked {
		c.l.post(c, (*conn).inflateOn)
	}
}

// inflateWaits tells whether a part of the stream waits to be inflated.
func (c *conn) inflateWaits() bool { return c.x != nil && c.x.z != nil && c.x.z.waits }

// inflateOn goes on with what waits.
func (c *conn) inflateOn() {
	if !c.inflateWaits() || c.phase != open && !c.taking() || !c.taking() && (c.masked || !c.up) {
		return
	}
	z := &c.x.z.inflating
	rest, raw, ended, fin := z.rest, z.raw, z.ended, z.fin
	z.waits, z.rest, z.raw, z.ended, z.fin = false, nil, nil, false, false
	z.count(c)
	if z.box.tailed {
		rest = z.box.b
	}
	z.in -= uint64(len(rest)) // it has been counted
	if !c.taking() {
		z.left = inflateTurn
	}
	whole := c.inflate(rest, z.over)
	if whole && !ended {
		whole = c.unpack(raw)
		raw = nil
	}
	if z.waits {
		z.raw, z.ended, z.fin = append(z.raw, raw...), z.ended || ended, fin
		z.count(c)
		return
	}
	c.mask()
	if !c.taking() && c.phase == open {
		c.noteHalf()
	}
	switch {
	case c.phase != open || !c.up && !c.taking():
	case ended || whole && fin:
		c.peerDone()
	case !whole:
	case c.ended && !c.taking():
		c.afterFIN()
	case c.x.waits():
		_ = c.flush()
	}
}

// drop gives the message's inflater back; whole: it is not in the middle of anything.
func (z *inflating) drop(c *conn, whole bool) {
	if z.box == nil {
		return
	}
	z.box.end(whole)
	c.l.h.cfg.Budget.Add(-inflaterCost)
	if whole {
		c.l.h.inflaters.Put(z.box)
	}
	z.box = nil
}

// release gives everything back.
func (z *deflated) release(c *conn) {
	z.drop(c, false)
	z.waits, z.rest, z.raw = false, nil, nil
	z.count(c)
	z.keep(c, nil)
}

// count keeps the budget right about what waits.
func (z *inflating) count(c *conn) {
	n := cap(z.rest) + cap(z.raw)
	c.l.h.cfg.Budget.Add(n - z.counted)
	z.counted = n
}
