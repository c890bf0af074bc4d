package bench

import (
	"fmt"
	"time"
)

// timerDriver sets Depth endless timers on every connection (2/1) and checks each firing (2/4):
// known id, n without a gap, never early. A message is a firing; its latency is how late it arrived
// relative to its period, counted from the request.
type timerDriver struct {
	period  int64
	depth   int
	firings *stream
	conns   []*conn
	timers  map[*conn][]firing
	probe   *conn
	answers int // replies to 2/1 still missing
	body    []byte
}

// firing is the state of one timer.
type firing struct {
	base    int64 // time of the request
	n       int64
	skipped int64 // periods that the server seems to have skipped
}

func newTimerDriver(spec genSpec) *timerDriver {
	return &timerDriver{
		period: int64(spec.Every), depth: max(1, spec.Depth), firings: newStream("timers"),
		timers: make(map[*conn][]firing, spec.Mine),
	}
}

// open sets the first connection's timers at once, as a probe; the others follow at the start.
func (d *timerDriver) open(l *loop, c *conn) error {
	d.conns = append(d.conns, c)
	if d.probe != nil {
		return l.ready(c)
	}
	d.probe = c
	return d.set(l, c)
}

func (d *timerDriver) begin(l *loop) error {
	for _, c := range d.conns {
		if c == d.probe {
			continue
		}
		if err := d.set(l, c); err != nil {
			return err
		}
	}
	return nil
}

func (d *timerDriver) set(l *loop, c *conn) error {
	d.timers[c] = make([]firing, d.depth)
	at := l.nanos()
	for i := range d.depth {
		d.timers[c][i].base = at
		d.body = fmt.Appendf(d.body[:0], `{"id":%d,"ms":%d,"repeat":0}`, i+1, d.period/int64(time.Millisecond))
		c.out = appendFrame(c.out, handleTimerSet, d.body)
	}
	c.next += uint64(d.depth)
	d.answers += d.depth
	return l.send(c)
}

func (d *timerDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	switch {
	case handle == handleTimerSet:
		return d.answered(l, c, body)
	case handle == handleTimerFire:
		return d.fired(l, c, body)
	case handle == handleError && c == d.probe && l.phase == connecting:
		return errSkip{"the target answers " + describeError(body)}
	}
	return unexpected(c, handle, body)
}

func (d *timerDriver) answered(l *loop, c *conn, body []byte) error {
	id, ok := jsonInt(body, "id")
	if !ok || id != int64(c.want)+1 {
		return fmt.Errorf("bench: connection %d: reply to 2/1 is wrong: %q, want id %d", c.id, clip(body), c.want+1)
	}
	c.want++
	d.answers--
	if c == d.probe && c.outstanding() == 0 {
		return l.ready(c)
	}
	return nil
}

func (d *timerDriver) fired(l *loop, c *conn, body []byte) error {
	id, ok := jsonInt(body, "id")
	n, ok2 := jsonInt(body, "n")
	timers := d.timers[c]
	if !ok || !ok2 || id < 1 || id > int64(len(timers)) {
		return fmt.Errorf("bench: connection %d: firing %q is wrong", c.id, clip(body))
	}
	t := &timers[id-1]
	if n != t.n+1 {
		return fmt.Errorf("bench: connection %d: timer %d fired number %d after %d", c.id, id, n, t.n)
	}
	t.n = n
	late := l.now - t.base - n*d.period
	if late < 0 {
		return fmt.Errorf("bench: connection %d: timer %d fired %v early", c.id, id, time.Duration(-late))
	}
	late = t.judge(late, d.period)
	l.note(d.firings, l.now-late, 1)
	return nil
}

// judge removes whole periods from a lateness: a server under load may skip some periods, and that
// counts as late once, not with every later firing. A firing that arrives earlier than that assumes
// was only delayed in transit.
func (t *firing) judge(late, period int64) int64 {
	late -= t.skipped * period
	switch {
	case late >= period:
		t.skipped += late / period
	case late < 0:
		back := (-late + period - 1) / period
		t.skipped -= back
		late += back * period
	}
	return late
}

func (d *timerDriver) after(*loop, *conn) error { return nil }

func (d *timerDriver) closed(l *loop, c *conn, why error) error {
	if l.phase == connecting && c == d.probe {
		return errSkip{"the target closed the connection when it was sent 2/1"}
	}
	return fmt.Errorf("bench: connection %d ended: %w", c.id, why)
}

func (d *timerDriver) tick(*loop) (int64, error) { return 0, nil }

// owed counts only the replies to 2/1; firings are unsolicited.
func (d *timerDriver) owed(*loop) int { return d.answers }

// overdue records for each timer the next firing that is missing.
func (d *timerDriver) overdue(l *loop) {
	for _, c := range d.conns {
		for i := range d.timers[c] {
			t := &d.timers[c][i]
			l.note(d.firings, t.base+(t.n+1+t.skipped)*d.period, 1)
		}
	}
}

func (d *timerDriver) streams() []*stream { return []*stream{d.firings} }
