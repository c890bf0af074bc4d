package bench

import "fmt"

// floodDriver is echo on every connection together with half-open TLS handshakes: each slot
// connects to the TLS address, sends a ClientHello and then nothing. Connections that the server
// closes are opened again soon.
type floodDriver struct {
	*echoDriver
	route   route
	hello   []byte
	slots   int
	waiting []*conn // closed slots, in the order of their last dials
	stood   *stream // how long connections closed by the server had lasted
}

// floodPause is how soon a slot is dialed again, in nanoseconds since its last dial.
const floodPause = 50e6

func newFloodDriver(spec genSpec) (*floodDriver, error) {
	r, err := parseRoute(spec.Flood)
	r.tls = false // TLS is done by hand
	return &floodDriver{
		echoDriver: newEchoDriver(spec), route: r, hello: clientHello(clientTLS()), slots: spec.Halves, stood: newStream("half-open"),
	}, err
}

func (d *floodDriver) open(l *loop, c *conn) error {
	if !c.half {
		return d.echoDriver.open(l, c)
	}
	c.greeted = true // it stands
	c.out = append(c.out, d.hello...)
	if err := l.flush(c); err != nil {
		return l.lose(c, err)
	}
	return nil
}

// tick dials the slots that are due.
func (d *floodDriver) tick(l *loop) (int64, error) {
	at, err := d.echoDriver.tick(l)
	if err != nil || l.phase >= draining {
		return at, err
	}
	for ; d.slots > 0; d.slots-- {
		c := &conn{fd: -1, half: true, route: &d.route, index: int32(len(l.byIndex)), born: -floodPause}
		l.byIndex = append(l.byIndex, c)
		d.waiting = append(d.waiting, c)
	}
	for len(d.waiting) > 0 {
		c := d.waiting[0]
		if due := c.born + floodPause; due > l.now {
			if at == 0 || due < at {
				at = due
			}
			break
		}
		d.waiting = d.waiting[1:]
		c.born = l.now
		if err := l.dial(c); err != nil {
			return 0, err
		}
	}
	return at, nil
}

func (d *floodDriver) closed(l *loop, c *conn, why error) error {
	if !c.half {
		return d.echoDriver.closed(l, c, why)
	}
	if !c.greeted {
		return fmt.Errorf("bench: the flood: %w", why)
	}
	l.note(d.stood, c.born, 1)
	d.waiting = append(d.waiting, c)
	return nil
}

func (d *floodDriver) streams() []*stream { return append(d.echoDriver.streams(), d.stood) }
