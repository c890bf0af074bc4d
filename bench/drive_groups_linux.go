package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// groupDriver: connections join groups of Members (1/5); in each, the first member sends (1/7)
// with Depth in flight. The first copy of a group's message is decoded and checked against what
// was sent, the others must be the same bytes.
type groupDriver struct {
	members    int
	depth      int
	fill       []byte
	deliveries *stream
	groups     []*group
	opened     int
	missing    int
	spans      bool // several nodes, which know of one another's members a moment later
}

type group struct {
	name   string
	conns  []*conn
	flight []groupSend
	first  uint64 // number of flight[0]
}

type groupSend struct {
	at   int64
	left int
	data string
	copy []byte // the first delivery's body
}

func newGroupDriver(spec genSpec) *groupDriver {
	d := &groupDriver{
		members: spec.Members, depth: max(1, spec.Depth), fill: bytes.Repeat([]byte{'g'}, spec.Body),
		deliveries: newStream("group"), spans: spec.Nodes > 1,
	}
	for i := range max(1, spec.Mine/spec.Members) {
		d.groups = append(d.groups, &group{name: "bench-" + strconv.Itoa(i)})
	}
	return d
}

// open joins; what does not fill a group joins the last one.
func (d *groupDriver) open(l *loop, c *conn) error {
	c.member = min(d.opened/d.members, len(d.groups)-1)
	d.opened++
	g := d.groups[c.member]
	g.conns = append(g.conns, c)
	c.out = appendFrame(c.out, handleJoin, fmt.Appendf(nil, `{"group":%q}`, g.name))
	return l.send(c)
}

func (d *groupDriver) begin(l *loop) error {
	for _, g := range d.groups {
		if err := d.top(l, g); err != nil {
			return err
		}
	}
	return nil
}

func (d *groupDriver) top(l *loop, g *group) error {
	if !l.sending() {
		return nil
	}
	c := g.conns[0]
	for len(g.flight) < d.depth {
		data := strconv.FormatUint(c.next, 10) + "." + string(d.fill)
		c.out = appendFrame(c.out, handleGroupSend, fmt.Appendf(nil, `{"group":%q,"data":%q}`, g.name, data))
		c.next++
		g.flight = append(g.flight, groupSend{at: l.now, left: len(g.conns) + 1, data: data})
		d.missing += len(g.conns) + 1 // the sender's own reply too
	}
	return l.send(c)
}

func (d *groupDriver) frame(l *loop, c *conn, handle uint32, body []byte) error {
	switch {
	case handle == handleGroupPush:
		return d.pushed(l, c, body)
	case handle == handleGroupSend && c == d.groups[c.member].conns[0]:
		return d.answered(c, body)
	case handle == handleJoin && l.phase == connecting:
		if n, ok := jsonInt(body, "members"); !ok || n < 1 {
			return errSkip{fmt.Sprintf("the target answers 1/5 with %q", clip(body))}
		}
		return l.ready(c)
	case handle == handleError && l.phase == connecting:
		return errSkip{"the target answers " + describeError(body)}
	}
	return unexpected(c, handle, body)
}

func (d *groupDriver) pushed(l *loop, c *conn, body []byte) error {
	g := d.groups[c.member]
	i := int(c.cast - g.first)
	if i >= len(g.flight) {
		return fmt.Errorf("bench: member %d got a message that was not sent: %q", c.id, clip(body))
	}
	s := &g.flight[i]
	if s.copy == nil {
		if err := s.adopt(g, body); err != nil {
			return err
		}
	} else if !bytes.Equal(body, s.copy) {
		return fmt.Errorf("bench: member %d got %q, another %q", c.id, clip(body), clip(s.copy))
	}
	c.cast++
	d.settle(s)
	l.note(d.deliveries, s.at, 1)
	return nil
}

// adopt checks a message's first copy.
func (s *groupSend) adopt(g *group, body []byte) error {
	var push struct{ Group, Data string }
	if err := json.Unmarshal(body, &push); err != nil {
		return fmt.Errorf("bench: group push %q: %w", clip(body), err)
	}
	if push.Group != g.name || push.Data != s.data {
		return fmt.Errorf("bench: group %s got %q, want data %q: reordered, lost or corrupt", g.name, clip(body), clip([]byte(s.data)))
	}
	s.copy = bytes.Clone(body)
	return nil
}

func (d *groupDriver) answered(c *conn, body []byte) error {
	g := d.groups[c.member]
	i := int(c.want - g.first)
	n, ok := jsonInt(body, "sent")
	all := int64(len(g.conns))
	if i >= len(g.flight) || !ok || n > all || n < all && !(d.spans && n > 0) {
		return fmt.Errorf("bench: group %s: reply to 1/7 is %q, want sent %d", g.name, clip(body), len(g.conns))
	}
	c.want++
	d.settle(&g.flight[i])
	return nil
}

func (d *groupDriver) settle(s *groupSend) {
	s.left--
	d.missing--
}

func (d *groupDriver) after(l *loop, c *conn) error {
	g := d.groups[c.member]
	done := 0
	for done < len(g.flight) && g.flight[done].left == 0 {
		done++
	}
	if done == 0 {
		return nil
	}
	g.first += uint64(done)
	g.flight = append(g.flight[:0], g.flight[done:]...)
	return d.top(l, g)
}

func (d *groupDriver) closed(l *loop, c *conn, why error) error {
	if l.phase == connecting && !errors.Is(why, errConnect) {
		return errSkip{"the target closed the connection when it was sent 1/5"}
	}
	return fmt.Errorf("bench: member %d ended: %w", c.id, why)
}

func (d *groupDriver) tick(*loop) (int64, error) { return 0, nil }

func (d *groupDriver) owed(*loop) int { return d.missing }

func (d *groupDriver) overdue(l *loop) {
	for _, g := range d.groups {
		for i, s := range g.flight {
			for _, c := range g.conns {
				if c.cast <= g.first+uint64(i) {
					l.note(d.deliveries, s.at, 1)
				}
			}
		}
	}
}

func (d *groupDriver) streams() []*stream { return []*stream{d.deliveries} }
