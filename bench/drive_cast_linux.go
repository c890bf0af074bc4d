package bench

import "fmt"

// castDriver: connection 0 broadcasts (1/2), every connection gets every broadcast in order. A
// broadcast is in flight until its last delivery; at most Depth are in flight.
type castDriver struct {
	body       *pattern
	deliveries *stream
	conns      []*conn
	sent       []int64 // send times of the broadcasts in flight, number first at [0]
	first      uint64  // number of the oldest in flight
	left       []int   // deliveries still missing of each
	missing    int
}

func newCastDriver(spec genSpec) *castDriver {
	return &castDriver{body: newPattern(spec.Body), deliveries: newStream("broadcast")}
}

func (d *castDriver) open(l *loop, c *conn) error {
	d.conns = append(d.conns, c)
	return l.ready(c)
}

func (d *castDriver) begin(l *loop) error { return d.top(l) }

// top starts broadcasts until Depth are in flight.
func (d *castDriver) top(l *loop) error {
	c := d.conns[0]
	if !l.sending() || len(d.sent) >= l.spec.Depth {
		return nil
	}
	for len(d.sent) < l.spec.Depth {
		c.out = d.body.appendFrame(c.out, handleBroadcast, c.id, c.next)
		c.next++
		d.sent = append(d.sent, l.now)
		d.left = append(d.left, len(d.conns))
		d.missing += len(d.conns)
	}
	return l.send(c)
}

func (d *castDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	if handle != handleBroadcast {
		return unexpected(c, handle, body)
	}
	from := d.conns[0]
	if !d.body.check(body, from.id, c.cast) {
		return fmt.Errorf("bench: receiver %d: %w", c.id, d.body.explain(body, from.id, c.cast))
	}
	i := int(c.cast - d.first)
	if i >= len(d.sent) {
		return fmt.Errorf("bench: receiver %d got broadcast %d, which was not sent", c.id, c.cast)
	}
	c.cast++
	d.left[i]--
	d.missing--
	l.note(d.deliveries, d.sent[i], 1)
	return nil
}

func (d *castDriver) after(l *loop, _ *conn) error {
	done := 0
	for done < len(d.left) && d.left[done] == 0 {
		done++
	}
	if done == 0 {
		return nil
	}
	d.first += uint64(done)
	d.sent = append(d.sent[:0], d.sent[done:]...)
	d.left = append(d.left[:0], d.left[done:]...)
	return d.top(l)
}

func (d *castDriver) closed(_ *loop, c *conn, why error) error {
	if len(d.conns) > 0 && c == d.conns[0] && c.next > 0 && c.cast == 0 {
		return errSkip{"the target closed the connection when it was sent 1/2"}
	}
	return fmt.Errorf("bench: receiver %d ended: %w", c.id, why)
}

func (d *castDriver) tick(*loop) (int64, error) { return 0, nil }

func (d *castDriver) owed(*loop) int { return d.missing }

func (d *castDriver) overdue(l *loop) {
	for i, at := range d.sent {
		l.note(d.deliveries, at, d.left[i])
	}
}

func (d *castDriver) streams() []*stream { return []*stream{d.deliveries} }
