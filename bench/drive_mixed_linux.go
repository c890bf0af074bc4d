package bench

import (
	"errors"
	"fmt"
	"io"
)

// mixedDriver is echo on most connections, timers on one in twenty, queries (3/1, else 4/3) on one in
// twenty, and a broadcast from the first one every period. A part that the target does not serve
// turns into echo.
type mixedDriver struct {
	echo    *echoDriver
	parts   []driver // timers, queries, sums
	skipped []bool
	body    *pattern
	casts   *stream

	first   *conn
	flight  []int64 // send times of broadcasts, number base at [0]
	base    uint64
	receive int // deliveries of the oldest ones still missing
	nextAt  int64
	period  int64
}

// maxCasts bounds broadcasts in flight; beyond it a period is left out.
const maxCasts = 64

func newMixedDriver(spec genSpec) *mixedDriver {
	timers := spec
	timers.Depth = 4
	return &mixedDriver{
		echo:    newEchoDriver(spec),
		parts:   []driver{newTimerDriver(timers), newCallDriver(spec, "queries", []call{queryCall()}), newCallDriver(spec, "sums", []call{sumCall(handleSum)})},
		skipped: make([]bool, 3),
		body:    newPattern(spec.Body), casts: newStream("broadcast"), period: int64(spec.Every),
	}
}

func (d *mixedDriver) open(l *loop, c *conn) error {
	if d.first == nil {
		d.first = c
	}
	d.assign(c)
	return c.role.open(l, c)
}

func (d *mixedDriver) assign(c *conn) {
	c.role = d.echo
	if slot := int(c.id) % 20; slot >= 1 && slot <= 3 && !d.skipped[slot-1] {
		c.role = d.parts[slot-1]
	}
}

func (d *mixedDriver) begin(l *loop) error {
	d.nextAt = l.nanos() + d.period
	if err := d.echo.begin(l); err != nil {
		return err
	}
	for i, p := range d.parts {
		if d.skipped[i] {
			continue
		}
		if err := p.begin(l); err != nil {
			return err
		}
	}
	return nil
}

func (d *mixedDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	if handle == handleBroadcast {
		return d.cast(l, c, body)
	}
	if handle == handleError && c.refuse > 0 {
		c.refuse--
		return nil
	}
	return d.forgive(l, c, c.role.frame(l, c, handle, body))
}

func (d *mixedDriver) cast(l *loop, c *conn, body []byte) error {
	if !d.body.check(body, castID, c.cast) {
		return fmt.Errorf("bench: receiver %d: %w", c.id, d.body.explain(body, castID, c.cast))
	}
	i := int(c.cast - d.base)
	if i < 0 || i >= len(d.flight) {
		return fmt.Errorf("bench: receiver %d got broadcast %d, which was not sent", c.id, c.cast)
	}
	c.cast++
	d.receive--
	l.note(d.casts, d.flight[i], 1)
	return nil
}

// castID names the broadcasts of a mixed run, so that none can pass for an echo.
const castID = 1<<24 - 1

// forgive turns a part that the target does not serve into echo.
func (d *mixedDriver) forgive(l *loop, c *conn, err error) error {
	if _, skip := errors.AsType[errSkip](err); !skip {
		return err
	}
	bad := c.role
	for i, p := range d.parts {
		if p == bad {
			d.skipped[i] = true
		}
	}
	for _, o := range l.conns {
		if o.role == bad && o != c {
			o.role = d.echo
			d.echo.conns = append(d.echo.conns, o)
		}
	}
	c.refuse = max(0, c.outstanding()-1)
	c.sent, c.got, c.next, c.want = runList{}, 0, 0, 0
	if c.fd < 0 {
		c.refuse = 0
		l.spare = append(l.spare, c) // it was closed on us; it comes back as an echo
		return nil
	}
	c.role = d.echo
	return d.echo.open(l, c)
}

func (d *mixedDriver) after(l *loop, c *conn) error { return c.role.after(l, c) }

func (d *mixedDriver) closed(l *loop, c *conn, why error) error {
	if c.role == nil {
		return fmt.Errorf("bench: connection %d ended: %w", c.id, errors.Join(why, io.ErrUnexpectedEOF))
	}
	return d.forgive(l, c, c.role.closed(l, c, why))
}

// tick broadcasts once a period.
func (d *mixedDriver) tick(l *loop) (int64, error) {
	for i, p := range d.parts {
		if d.skipped[i] {
			continue
		}
		if _, err := p.tick(l); err != nil {
			if err := d.forgiveProbe(l, p, err); err != nil {
				return 0, err
			}
		}
	}
	if !l.sending() || l.phase == connecting {
		return 0, nil
	}
	if now := l.nanos(); now >= d.nextAt {
		d.nextAt = max(d.nextAt+d.period, now)
		if err := d.castOne(l, now); err != nil {
			return 0, err
		}
	}
	return d.nextAt, nil
}

// forgiveProbe handles a probe that got no answer at all.
func (d *mixedDriver) forgiveProbe(l *loop, p driver, err error) error {
	if q, ok := p.(*callDriver); ok && q.probe != nil {
		return d.forgive(l, q.probe, err)
	}
	return err
}

func (d *mixedDriver) castOne(l *loop, now int64) error {
	if d.receive == 0 {
		d.base += uint64(len(d.flight))
		d.flight = d.flight[:0]
	}
	if len(d.flight) >= maxCasts {
		return nil
	}
	number := d.base + uint64(len(d.flight))
	d.first.out = d.body.appendFrame(d.first.out, handleBroadcast, castID, number)
	d.flight = append(d.flight, now)
	d.receive += len(l.conns)
	return l.send(d.first)
}

func (d *mixedDriver) owed(l *loop) int {
	n := d.echo.owed(l) + d.receive
	for i, p := range d.parts {
		if !d.skipped[i] {
			n += p.owed(l)
		}
	}
	return n
}

func (d *mixedDriver) overdue(l *loop) {
	d.echo.overdue(l)
	for _, c := range l.conns {
		for i := int(c.cast - d.base); i >= 0 && i < len(d.flight); i++ {
			l.note(d.casts, d.flight[i], 1)
		}
	}
	for i, p := range d.parts {
		if !d.skipped[i] {
			p.overdue(l)
		}
	}
}

func (d *mixedDriver) streams() []*stream {
	out := append(d.echo.streams(), d.casts)
	for i, p := range d.parts {
		if !d.skipped[i] {
			out = append(out, p.streams()...)
		}
	}
	return out
}
