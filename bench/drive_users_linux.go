package bench

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// once checks that each number occurs once, from 0 on, approximately in order.
type once struct {
	floor uint64 // all below have occurred
	seen  []bool // which from floor on have occurred; a ring
}

// newOnce returns a once for numbers that are at most span out of order.
func newOnce(span int) *once { return &once{seen: make([]bool, span)} }

// take reports whether n is new, and not too far ahead.
func (o *once) take(n uint64) bool {
	size := uint64(len(o.seen))
	if n < o.floor || n >= o.floor+size || o.seen[n%size] {
		return false
	}
	o.seen[n%size] = true
	for o.seen[o.floor%size] {
		o.seen[o.floor%size] = false
		o.floor++
	}
	return true
}

// userDriver: each connection is bound to its own user (6/3), and sends (6/4) to the user of the
// next connection, which is on the next node, with Depth in flight. A connection's requests are
// processed concurrently, so messages may arrive in another order; each arrives once.
type userDriver struct {
	depth      int
	fill       string
	deliveries *stream
	conns      []*conn
	place      map[*conn]int
	from       []*flight // by place of the sender
	missing    int
}

// flight is what one connection has sent and not received confirmation of.
type flight struct {
	at       []int64 // by number; a ring
	come     *once
	answered uint64
}

func newUserDriver(spec genSpec) *userDriver {
	return &userDriver{depth: max(1, spec.Depth), fill: strings.Repeat("u", spec.Body), deliveries: newStream("user"), place: map[*conn]int{}}
}

func benchUser(c *conn) string { return "bench-" + strconv.FormatUint(uint64(c.id), 10) }

func (d *userDriver) open(l *loop, c *conn) error {
	d.place[c] = len(d.conns)
	d.conns = append(d.conns, c)
	d.from = append(d.from, &flight{at: make([]int64, 2*d.depth), come: newOnce(2 * d.depth)})
	c.out = appendFrame(c.out, handleBind, fmt.Appendf(nil, `{"user":%q}`, benchUser(c)))
	return l.send(c)
}

func (d *userDriver) begin(l *loop) error {
	for _, c := range d.conns {
		if err := d.top(l, c); err != nil {
			return err
		}
	}
	return nil
}

// top sends messages until Depth are unanswered or undelivered.
func (d *userDriver) top(l *loop, c *conn) error {
	if !l.sending() {
		return nil
	}
	i := d.place[c]
	f, to := d.from[i], benchUser(d.conns[(i+1)%len(d.conns)])
	for c.next-min(f.answered, f.come.floor) < uint64(d.depth) {
		f.at[c.next%uint64(len(f.at))] = l.now
		c.out = appendFrame(c.out, handleSendUser, fmt.Appendf(nil, `{"user":%q,"data":"%d.%d.%s"}`, to, c.id, c.next, d.fill))
		c.next++
		d.missing += 2 // the answer and the delivery
	}
	return l.send(c)
}

func (d *userDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	switch {
	case handle == handleUserPush:
		return d.pushed(l, c, body)
	case handle == handleSendUser:
		f := d.from[d.place[c]]
		if f.answered >= c.next || !jsonIs(body, "sent", "true") {
			return fmt.Errorf("bench: connection %d: reply %d to 6/4 is %q", c.id, f.answered, clip(body))
		}
		f.answered++
		d.missing--
		return d.top(l, c)
	case handle == handleBind && l.phase == connecting:
		if n, ok := jsonInt(body, "epoch"); !ok || n < 1 {
			return errSkip{fmt.Sprintf("the target answers 6/3 with %q", clip(body))}
		}
		return l.ready(c)
	case handle == handleError && l.phase == connecting:
		return errSkip{"the target answers " + describeError(body)}
	}
	return unexpected(c, handle, body)
}

func (d *userDriver) pushed(l *loop, c *conn, body []byte) error {
	i := (d.place[c] + len(d.conns) - 1) % len(d.conns)
	from, f := d.conns[i], d.from[i]
	prefix := append(strconv.AppendUint([]byte{'"'}, uint64(from.id), 10), '.')
	data, ours := bytes.CutPrefix(jsonField(body, "data"), prefix)
	text, rest, _ := bytes.Cut(data, []byte{'.'})
	n, err := strconv.ParseUint(string(text), 10, 64)
	switch {
	case !ours || err != nil || string(rest) != d.fill+`"` || string(jsonField(body, "user")) != `"`+benchUser(c)+`"`:
		return fmt.Errorf("bench: connection %d got %q: lost or corrupt", c.id, clip(body))
	case n >= from.next || !f.come.take(n):
		return fmt.Errorf("bench: connection %d got number %d of connection %d, which has come before, or was not sent", c.id, n, from.id)
	}
	d.missing--
	l.note(d.deliveries, f.at[n%uint64(len(f.at))], 1)
	return d.top(l, from)
}

func (d *userDriver) after(*loop, *conn) error { return nil }

func (d *userDriver) closed(l *loop, c *conn, why error) error {
	if l.phase == connecting && !errors.Is(why, errConnect) {
		return errSkip{"the target closed the connection when it was sent 6/3"}
	}
	return fmt.Errorf("bench: connection %d, which is bound to a user, ended: %w", c.id, why)
}

func (d *userDriver) tick(*loop) (int64, error) { return 0, nil }

func (d *userDriver) owed(*loop) int { return d.missing }

func (d *userDriver) overdue(l *loop) {
	for i, c := range d.conns {
		f := d.from[i]
		for n := f.come.floor; n < c.next; n++ {
			if !f.come.seen[n%uint64(len(f.come.seen))] {
				l.note(d.deliveries, f.at[n%uint64(len(f.at))], 1)
			}
		}
	}
}

func (d *userDriver) streams() []*stream { return []*stream{d.deliveries} }
