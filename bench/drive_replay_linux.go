package bench

import (
	"encoding/binary"
	"fmt"

	"millrace/services/capture"
)

// replayDriver repeats the requests of a recording's sessions that were answered once for each
// request, over and over: connection i those of session i modulo their number, with Depth requests
// outstanding. Answers may arrive in another order than the requests (for example from handles that
// wait for a database); then latencies are attributed by order of arrival. An ERROR counts as an
// answer if the recording has one about that handle.
type replayDriver struct {
	scripts [][]capture.Request
	refused map[uint32]bool // handles with an ERROR in the recording
	depth   int
	replies *stream
	conns   []*conn
	waits   map[*conn]map[uint32]int // what is outstanding on each, by handle
	unread  int
}

func newReplayDriver(spec genSpec) (*replayDriver, error) {
	f, err := capture.OpenSet(spec.File)
	if err != nil {
		return nil, fmt.Errorf("bench: the recording: %w", err)
	}
	defer f.Close()
	rec, err := f.Index()
	if err != nil {
		return nil, fmt.Errorf("bench: the recording: %w", err)
	}
	if !rec.Plain {
		return nil, fmt.Errorf("bench: %s: its frames have another layout than the default, which is all that is measured", spec.File)
	}
	d := &replayDriver{depth: max(1, spec.Depth), replies: newStream("replay"), refused: rec.Refused(), waits: map[*conn]map[uint32]int{}}
	d.scripts, err = rec.Scripts(f)
	if err != nil {
		return nil, fmt.Errorf("bench: %s: %w", spec.File, err)
	}
	return d, nil
}

func (d *replayDriver) open(l *loop, c *conn) error {
	d.conns = append(d.conns, c)
	d.waits[c] = map[uint32]int{}
	return l.ready(c)
}

func (d *replayDriver) begin(l *loop) error {
	for _, c := range d.conns {
		if err := d.top(l, c); err != nil {
			return err
		}
	}
	return nil
}

// top fills a connection up to its depth.
func (d *replayDriver) top(l *loop, c *conn) error {
	n := d.depth - c.outstanding()
	if n <= 0 || !l.sending() {
		return nil
	}
	script := d.scripts[int(c.id)%len(d.scripts)]
	for range n {
		r := script[c.next%uint64(len(script))]
		c.out = append(c.out, r.Frame...)
		d.waits[c][r.Handle]++
		c.next++
	}
	d.unread += n
	c.sent.push(l.now, n)
	return l.send(c)
}

func (d *replayDriver) frame(_ *loop, c *conn, handle uint32, body []byte) error {
	about := handle
	if handle == handleError && len(body) >= 6 {
		if about = binary.BigEndian.Uint32(body[2:]); !d.refused[about] {
			return unexpected(c, handle, body)
		}
	}
	if d.waits[c][about] == 0 {
		if handle == handleGoaway || about == handleBroadcast || about == handleGroupPush || about == handleTimerFire {
			return nil // unsolicited
		}
		return unexpected(c, handle, body)
	}
	d.waits[c][about]--
	c.want++
	c.got++
	return nil
}

func (d *replayDriver) after(l *loop, c *conn) error {
	d.unread -= c.got
	for c.got > 0 {
		at, n := c.sent.pop(c.got)
		c.got -= n
		l.note(d.replies, at, n)
	}
	return d.top(l, c)
}

func (d *replayDriver) closed(_ *loop, c *conn, why error) error {
	return fmt.Errorf("bench: connection %d ended with %d requests outstanding: %w", c.id, c.outstanding(), why)
}

func (d *replayDriver) tick(*loop) (int64, error) { return 0, nil }

func (d *replayDriver) owed(*loop) int { return d.unread }

func (d *replayDriver) overdue(l *loop) {
	for _, c := range d.conns {
		l.noteAll(d.replies, &c.sent)
	}
}

func (d *replayDriver) streams() []*stream { return []*stream{d.replies} }
