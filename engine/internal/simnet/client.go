package simnet

// Send sends bytes from the client.
func (c *Conn) Send(b []byte) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.limited {
		c.lost = c.lost || len(b) > c.limit
		b = b[:min(len(b), c.limit)]
		c.limit -= len(b)
	}
	if c.shut || len(b) == 0 {
		return
	}
	c.in.put(segment{b: append([]byte(nil), b...)}, c.n.takes(c.traits))
	c.n.note("client writes", c, len(b), b)
}

// SendFIN sends the client's FIN; it goes on reading.
func (c *Conn) SendFIN() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.limited {
		return
	}
	c.in.put(segment{fin: true}, c.n.takes(c.traits))
	c.n.note("client's fin", c, 0, nil)
}

// Shut closes the client's end: a FIN, and what comes then is answered with a reset. With
// input unread it is a reset at once.
func (c *Conn) Shut() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.shut {
		return
	}
	c.shut = true
	if len(c.out.ready) > 0 {
		c.reset()
		return
	}
	c.in.put(segment{fin: true}, c.n.takes(c.traits))
	c.n.note("client closes", c, 0, nil)
}

// SendReset breaks the connection from the client's end.
func (c *Conn) SendReset() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.shut = true
	c.reset()
}

// reset sends a reset to the server. mu is held.
func (c *Conn) reset() {
	if c.broken {
		return
	}
	c.broken = true
	c.in.ended = false // also behind a FIN
	c.in.put(segment{rst: true}, c.n.takes(c.traits))
	c.n.note("client resets", c, 0, nil)
}

// Stall has the client read nothing any more, or go on.
func (c *Conn) Stall(stall bool) {
	c.n.mu.Lock()
	c.stalled = stall
	c.n.mu.Unlock()
	c.n.hooks.Wake()
}

// Vanish has the path lose everything from now on, both ways, without a word.
func (c *Conn) Vanish() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.in.silent, c.out.silent = true, true
	c.n.note("vanishes", c, 0, nil)
}

// Take takes what the client has read.
func (c *Conn) Take() []byte {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	b := c.got
	c.got = nil
	return b
}

// Ended tells how the server's end has come: with a FIN behind everything that was taken, or
// with a reset.
func (c *Conn) Ended() (fin, reset bool) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return c.out.fin && len(c.out.ready) == 0, c.out.rst
}

// Accepted tells whether the server has accepted the connection, or closed it before that.
func (c *Conn) Accepted() bool {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return c.dialed
}

// Closed tells whether the server has closed its descriptor.
func (c *Conn) Closed() bool {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return c.closed
}

// read has the client read. mu is held.
func (c *Conn) read() {
	switch {
	case c.stalled:
	case c.shut:
		if len(c.out.ready) > 0 {
			c.reset() // nobody is there to read it
		}
		c.out.ready = nil
	case len(c.out.ready) > 0:
		c.n.note("client reads", c, len(c.out.ready), c.out.ready)
		c.got = append(c.got, c.out.ready...)
		c.out.ready = nil
	}
}

// Cut has the path lose what the client sends from n bytes of it on, without a word, and what
// it closes with: it seems to have stopped in the middle of something.
func (c *Conn) Cut(n int) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.limit, c.limited = n, true
}

// Lost tells whether a Cut has lost anything.
func (c *Conn) Lost() bool {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return c.lost
}
