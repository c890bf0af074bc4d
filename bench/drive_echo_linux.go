package bench

import (
	"fmt"
	"math"
)

// echoDriver: 1/1 on every connection.
//
// Closed loop: Depth requests are outstanding on each connection; the replies of one read are
// followed by as many requests in one write. Requests outstanding at the end of the window count
// with their final time. Open loop: request i is due at start + i/rate whatever the server does, on
// connection i mod n; its latency counts from its due time (no coordinated omission).
type echoDriver struct {
	body    *pattern
	replies *stream
	lag     *stream // open loop: how late the generator sent
	conns   []*conn
	unread  int // requests without a reply

	perNano float64 // open loop: requests a nanosecond, 0 = closed
	started int64
	issued  uint64
	blocked bool // the schedule waits for a connection with maxDepth outstanding
	touched []*conn
}

func newEchoDriver(spec genSpec) *echoDriver {
	d := &echoDriver{body: newPattern(spec.Body), replies: newStream("echo")}
	if spec.Rate > 0 {
		d.perNano = spec.Rate * spec.Share / 1e9
		d.lag = newStream("lag")
	}
	return d
}

func (d *echoDriver) open(l *loop, c *conn) error {
	d.conns = append(d.conns, c)
	return l.ready(c)
}

func (d *echoDriver) begin(l *loop) error {
	d.started = l.nanos()
	if d.perNano > 0 {
		return nil
	}
	for _, c := range d.conns {
		if err := d.top(l, c); err != nil {
			return err
		}
	}
	return nil
}

// top fills a closed-loop connection up to its depth.
func (d *echoDriver) top(l *loop, c *conn) error {
	n := l.spec.Depth - c.outstanding()
	if n <= 0 || !l.sending() {
		return nil
	}
	for range n {
		c.out = d.body.appendFrame(c.out, handleEcho, c.id, c.next)
		c.next++
	}
	d.unread += n
	c.sent.push(l.now, n)
	return l.send(c)
}

func (d *echoDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	if handle != handleEcho {
		return unexpected(c, handle, body)
	}
	if c.outstanding() <= 0 {
		return fmt.Errorf("bench: connection %d got a reply to nothing", c.id)
	}
	if !d.body.check(body, c.id, c.want) {
		return fmt.Errorf("bench: %w", d.body.explain(body, c.id, c.want))
	}
	c.want++
	c.got++
	return nil
}

func (d *echoDriver) after(l *loop, c *conn) error {
	d.unread -= c.got
	for c.got > 0 {
		at, n := c.sent.pop(c.got)
		c.got -= n
		d.note(l, at, n)
	}
	if d.perNano > 0 {
		return nil
	}
	return d.top(l, c)
}

// note records n replies to requests of time at. In an open loop, requests that were due in the
// window count even if they were answered after it, as they are the slow ones.
func (d *echoDriver) note(l *loop, at int64, n int) {
	if d.perNano == 0 {
		l.note(d.replies, at, n)
		return
	}
	if l.counts() {
		d.replies.count += uint64(n)
	}
	if d.inWindow(l, at) {
		d.replies.measure(l.now-at, n)
	}
}

func (d *echoDriver) inWindow(l *loop, at int64) bool {
	switch l.phase {
	case measuring:
		return at >= l.open.at
	case draining:
		return at >= l.open.at && at < l.shut.at
	default:
		return false
	}
}

func (d *echoDriver) closed(l *loop, c *conn, why error) error {
	return fmt.Errorf("bench: connection %d ended with %d requests outstanding: %w", c.id, c.outstanding(), why)
}

// tick sends requests that are due and returns when the next one is.
func (d *echoDriver) tick(l *loop) (int64, error) {
	if d.perNano == 0 || !l.sending() {
		return 0, nil
	}
	now := l.nanos()
	due := uint64(float64(now-d.started) * d.perNano)
	for ; d.issued < due; d.issued++ {
		if !d.issue(l, now) {
			break
		}
	}
	for _, c := range d.touched {
		if err := l.send(c); err != nil {
			return 0, err
		}
	}
	d.touched = d.touched[:0]
	d.blocked = d.issued < due
	if d.blocked {
		return now + 1e5, nil // over the limit of outstanding requests: look again soon
	}
	return d.dueAt(d.issued + 1), nil
}

// dueAt is when request number i (from 1) is due.
func (d *echoDriver) dueAt(i uint64) int64 {
	return d.started + int64(math.Ceil(float64(i)/d.perNano))
}

// issue queues the next request of the schedule; false if its connection has maxDepth outstanding.
// It is then sent later, but its latency still counts from its due time.
func (d *echoDriver) issue(l *loop, now int64) bool {
	c := d.conns[d.issued%uint64(len(d.conns))]
	if c.outstanding() >= maxDepth {
		return false
	}
	at := d.dueAt(d.issued + 1)
	if len(c.out) == 0 {
		d.touched = append(d.touched, c)
	}
	c.out = d.body.appendFrame(c.out, handleEcho, c.id, c.next)
	c.next++
	c.sent.push(at, 1)
	d.unread++
	if l.counts() {
		d.lag.record(now-at, 1)
	}
	return true
}

func (d *echoDriver) owed(*loop) int { return d.unread }

// overdue records requests without a reply and, in an open loop, requests due in the window that
// could not be sent because too many were outstanding.
func (d *echoDriver) overdue(l *loop) {
	for _, c := range d.conns {
		if d.perNano == 0 {
			l.noteAll(d.replies, &c.sent)
			continue
		}
		for at, n := c.sent.pop(maxDepth); n > 0; at, n = c.sent.pop(maxDepth) {
			d.note(l, at, n)
		}
	}
	for i := d.issued + 1; d.blocked && d.dueAt(i) < l.shut.at; i++ {
		d.note(l, d.dueAt(i), 1)
	}
}

func (d *echoDriver) streams() []*stream { return []*stream{d.replies} }

// lateness is how late the generator itself sent; nil in a closed loop.
func (d *echoDriver) lateness() *stream { return d.lag }

func unexpected(c *conn, handle uint32, body []byte) error {
	if handle == handleError {
		return fmt.Errorf("bench: connection %d got %s", c.id, describeError(body))
	}
	return fmt.Errorf("bench: connection %d got an unexpected frame %s %q", c.id, handleName(handle), clip(body))
}
