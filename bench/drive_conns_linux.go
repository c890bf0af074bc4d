package bench

import "fmt"

// idleDriver holds connections open. When the parent requests it, each makes one echo, so that
// memory can be measured before and after the first traffic.
type idleDriver struct {
	body    *pattern
	echoes  *stream
	missing int
}

func newIdleDriver(spec genSpec) *idleDriver {
	return &idleDriver{body: newPattern(spec.Body), echoes: newStream("echo")}
}

func (d *idleDriver) open(l *loop, c *conn) error { return l.ready(c) }

func (d *idleDriver) begin(l *loop) error {
	for _, c := range l.conns {
		c.out = d.body.appendFrame(c.out, handleEcho, c.id, c.next)
		c.next++
		d.missing++
		if err := l.send(c); err != nil {
			return err
		}
	}
	return nil
}

func (d *idleDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	if handle != handleEcho {
		return unexpected(c, handle, body)
	}
	if !d.body.check(body, c.id, c.want) {
		return fmt.Errorf("bench: %w", d.body.explain(body, c.id, c.want))
	}
	c.want++
	d.echoes.count++
	if d.missing--; d.missing > 0 {
		return nil
	}
	_, err := fmt.Fprintln(l.out, lineEchoed)
	return err
}

func (d *idleDriver) after(*loop, *conn) error { return nil }

func (d *idleDriver) closed(_ *loop, c *conn, why error) error {
	return fmt.Errorf("bench: idle connection %d ended: %w", c.id, why)
}

func (d *idleDriver) tick(*loop) (int64, error) { return 0, nil }

func (d *idleDriver) owed(*loop) int { return d.missing }

func (d *idleDriver) overdue(*loop) {}

func (d *idleDriver) streams() []*stream { return []*stream{d.echoes} }

// churnDriver: each slot connects, makes one echo, closes and connects again. A message is a whole
// connection, timed from connect to reply; over TLS that includes a full handshake.
type churnDriver struct {
	body  *pattern
	lives *stream
}

func newChurnDriver(spec genSpec) *churnDriver {
	return &churnDriver{body: newPattern(spec.Body), lives: newStream("connection")}
}

// open is called for each new life; until the start they wait.
func (d *churnDriver) open(l *loop, c *conn) error {
	if l.phase <= waiting {
		return l.ready(c)
	}
	return d.ask(l, c)
}

func (d *churnDriver) begin(l *loop) error {
	for _, c := range l.conns {
		c.born = l.now
		if err := d.ask(l, c); err != nil {
			return err
		}
	}
	return nil
}

func (d *churnDriver) ask(l *loop, c *conn) error {
	c.out = d.body.appendFrame(c.out, handleEcho, c.id, uint64(c.life))
	c.next = 1
	return l.send(c)
}

func (d *churnDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	if handle != handleEcho {
		return unexpected(c, handle, body)
	}
	if !d.body.check(body, c.id, uint64(c.life)) {
		return fmt.Errorf("bench: %w", d.body.explain(body, c.id, uint64(c.life)))
	}
	c.want = 1
	l.note(d.lives, c.born, 1)
	l.leave(c)
	if l.sending() {
		c.born = l.now
		l.spare = append(l.spare, c)
	}
	return nil
}

func (d *churnDriver) after(*loop, *conn) error { return nil }

func (d *churnDriver) closed(_ *loop, c *conn, why error) error {
	return fmt.Errorf("bench: connection %d, life %d, ended without a reply: %w", c.id, c.life, why)
}

func (d *churnDriver) tick(*loop) (int64, error) { return 0, nil }

func (d *churnDriver) owed(l *loop) int {
	n := 0
	for _, c := range l.conns {
		if c.fd >= 0 {
			n++
		}
	}
	return n
}

func (d *churnDriver) overdue(l *loop) {
	for _, c := range l.conns {
		if c.fd >= 0 {
			l.note(d.lives, c.born, 1)
		}
	}
}

func (d *churnDriver) streams() []*stream { return []*stream{d.lives} }
