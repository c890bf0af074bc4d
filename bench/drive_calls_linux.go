package bench

import "fmt"

// call is one request of a cycle.
type call struct {
	handle uint32
	build  func(dst []byte, c *conn, seq uint64) []byte
	check  func(body []byte, c *conn, seq uint64) bool
}

// probeWait is how long a target may take to answer its first request of a kind before it counts as
// not serving it.
const probeWait = 3e9

// callDriver cycles through calls on every connection with Depth outstanding. Replies arrive in the
// order of the requests. The first connection tries each call of the cycle once before the start,
// so that a target that does not serve them is skipped instead of failing.
type callDriver struct {
	calls   []call
	depth   int
	replies *stream
	conns   []*conn
	unread  int
	body    []byte // scratch
	probe   *conn
	probed  int64 // when its last request was sent; 0 = done
}

func newCallDriver(spec genSpec, name string, calls []call) *callDriver {
	return &callDriver{calls: calls, depth: max(1, spec.Depth), replies: newStream(name)}
}

func (d *callDriver) call(seq uint64) *call { return &d.calls[seq%uint64(len(d.calls))] }

func (d *callDriver) open(l *loop, c *conn) error {
	d.conns = append(d.conns, c)
	if d.probe != nil {
		return l.ready(c)
	}
	d.probe, d.probed = c, l.now
	d.ask(l, c, 1)
	return l.send(c)
}

func (d *callDriver) begin(l *loop) error {
	for _, c := range d.conns {
		if err := d.top(l, c); err != nil {
			return err
		}
	}
	return nil
}

func (d *callDriver) ask(l *loop, c *conn, n int) {
	for range n {
		k := d.call(c.next)
		d.body = k.build(d.body[:0], c, c.next)
		c.out = appendFrame(c.out, k.handle, d.body)
		c.next++
	}
	d.unread += n
	c.sent.push(l.now, n)
}

func (d *callDriver) top(l *loop, c *conn) error {
	n := d.depth - c.outstanding()
	if n <= 0 || !l.sending() {
		return nil
	}
	d.ask(l, c, n)
	return l.send(c)
}

func (d *callDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	k := d.call(c.want)
	if d.probed != 0 && c == d.probe && handle == handleError {
		return errSkip{"the target answers " + describeError(body)}
	}
	if handle != k.handle || c.outstanding() <= 0 {
		return unexpected(c, handle, body)
	}
	if !k.check(body, c, c.want) {
		if d.probed != 0 {
			return errSkip{fmt.Sprintf("the target answers %s with %q", handleName(handle), clip(body))}
		}
		return fmt.Errorf("bench: connection %d: reply %d to %s is wrong: %q", c.id, c.want, handleName(handle), clip(body))
	}
	c.want++
	c.got++
	return nil
}

func (d *callDriver) after(l *loop, c *conn) error {
	d.unread -= c.got
	for c.got > 0 {
		at, n := c.sent.pop(c.got)
		c.got -= n
		l.note(d.replies, at, n)
	}
	if d.probed != 0 && c == d.probe && c.outstanding() == 0 {
		return d.probeNext(l, c)
	}
	return d.top(l, c)
}

// probeNext tries the cycle's next call, or ends the probe.
func (d *callDriver) probeNext(l *loop, c *conn) error {
	if c.next < uint64(len(d.calls)) {
		d.probed = l.now
		d.ask(l, c, 1)
		return l.send(c)
	}
	d.probed = 0
	return l.ready(c)
}

func (d *callDriver) closed(_ *loop, c *conn, why error) error {
	if d.probed != 0 && c == d.probe {
		return errSkip{fmt.Sprintf("the target closed the connection when it was sent %s", handleName(d.call(c.want).handle))}
	}
	return fmt.Errorf("bench: connection %d ended with %d requests outstanding: %w", c.id, c.outstanding(), why)
}

func (d *callDriver) tick(l *loop) (int64, error) {
	if d.probed != 0 && l.now-d.probed > probeWait {
		return 0, errSkip{fmt.Sprintf("the target does not answer %s", handleName(d.call(d.probe.want).handle))}
	}
	return 0, nil
}

func (d *callDriver) owed(*loop) int { return d.unread }

func (d *callDriver) overdue(l *loop) {
	for _, c := range d.conns {
		l.noteAll(d.replies, &c.sent)
	}
}

func (d *callDriver) streams() []*stream { return []*stream{d.replies} }
