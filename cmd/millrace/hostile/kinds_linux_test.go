package hostile

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// kind is a way to misbehave on one connection. run returns when the connection is of no
// more use, at the latest when the crowd disperses, which closes it.
type kind struct {
	name string
	run  func(h *hostile, c *client)
}

var kinds = []kind{
	{"never reads its answers", func(h *hostile, c *client) {
		h.flood(c, repeat(16, 1, 1, strings.Repeat("n", min(16*kib, h.limits.frame-64))))
	}},
	{"asks little and never reads the much", func(h *hostile, c *client) { h.flood(c, repeat(512, 1, 3, "")) }},
	{"reads a byte now and then", func(h *hostile, c *client) {
		go h.flood(c, repeat(16, 1, 1, strings.Repeat("b", 4*kib)))
		h.sip(c, 1, 200*time.Millisecond)
	}},
	{"reads in bursts", func(h *hostile, c *client) {
		go h.flood(c, repeat(16, 1, 1, strings.Repeat("u", 4*kib)))
		h.sip(c, 512*kib, 400*time.Millisecond)
	}},
	{"writes a byte at a time", func(h *hostile, c *client) {
		go io.Copy(io.Discard, c.r)
		for b := wire(nil, 1, 1, "drip, drop"); h.pause(5 * time.Millisecond); b = append(b[1:], b[0]) {
			if c.put(b[:1], time.Second) != nil {
				return
			}
		}
	}},
	{"claims the largest frame and stops in it", func(h *hostile, c *client) {
		b := append(header(nil, uint32(h.limits.frame)), 0, 1, 0, 1)
		c.put(append(b, make([]byte, h.limits.frame*9/10)...), 5*time.Second)
		h.drain(c, 2*time.Second)
	}},
	{"claims too large a frame and goes on sending", func(h *hostile, c *client) {
		go c.put(append(header(nil, pick(h.r, uint32(h.limits.frame+1), 1<<31-1, 1<<31, 1<<32-1, 3, 0)), make([]byte, 2*mib)...), 5*time.Second)
		all, end := c.rest(10 * time.Second)
		if err := lastIsBadFrame(withoutPushes(all), end); err != nil {
			h.fault("a frame too large: %v", err)
		}
	}},
	{"stops in a length", func(h *hostile, c *client) {
		c.put([]byte{0, 0}, time.Second)
		h.drain(c, time.Second)
	}},
	{"says nothing", func(h *hostile, c *client) { h.drain(c, 3*time.Second) }},
	{"tiny requests one by one", func(h *hostile, c *client) {
		go io.Copy(io.Discard, c.r)
		h.flood(c, wire(nil, 1, 1, ""))
	}},
	{"pipelines flat out and checks", func(h *hostile, c *client) { h.pipeline(c) }},
	{"tiny requests behind a slow one", func(h *hostile, c *client) {
		c.send(1, 4, `{"ms":800}`)
		for i := 0; i < 20_000 && !h.over() && c.put(wire(nil, 1, 1, ""), time.Second) == nil; i++ {
		}
		h.pause(200 * time.Millisecond)
	}},
	{"resets with answers under way", func(h *hostile, c *client) {
		c.put(repeat(8, 1, 1, strings.Repeat("r", 8*kib)), time.Second)
		h.pause(time.Duration(h.r.IntN(20)) * time.Millisecond)
		c.reset()
	}},
	{"opens and closes at once", func(h *hostile, c *client) { h.pause(2 * time.Millisecond) }},
	{"half-closes with answers owed", func(h *hostile, c *client) { h.halfClose(c) }},
	{"a bad header in the middle", func(h *hostile, c *client) { h.badMiddle(c) }},
	{"a member that never reads", func(h *hostile, c *client) {
		c.send(1, 5, `{"group":"g"}`)
		h.pause(2 * time.Second)
	}},
	{"sends to the group", func(h *hostile, c *client) {
		text := `{"group":"g","data":"` + strings.Repeat("g", 1000) + `"}`
		for h.pause(2 * time.Millisecond) {
			if _, err := c.call(5*time.Second, 1, 7, text); err != nil {
				return
			}
		}
	}},
	{"sends to all", func(h *hostile, c *client) {
		for h.pause(10 * time.Millisecond) {
			if _, err := c.call(5*time.Second, 1, 2, strings.Repeat("a", 2000)); err != nil {
				return
			}
		}
	}},
	{"timers of 1 ms and never reads", func(h *hostile, c *client) {
		for i := range 20 {
			c.send(2, 1, fmt.Sprintf(`{"id":%d,"ms":1,"repeat":0}`, i))
		}
		h.pause(3 * time.Second)
	}},
	{"PINGs and never reads", func(h *hostile, c *client) { h.flood(c, repeat(256, 0, 1, strings.Repeat("p", 64))) }},
	{"PINGs and reads", func(h *hostile, c *client) {
		go io.Copy(io.Discard, c.r)
		h.flood(c, repeat(256, 0, 1, "p"))
	}},
	{"waits for locks and goes", func(h *hostile, c *client) {
		for range 20 {
			c.send(5, 4, fmt.Sprintf(`{"key":"k%d","ttl_ms":500,"wait_ms":5000}`, h.r.IntN(4)))
		}
		h.drain(c, 300*time.Millisecond)
	}},
}

// flood writes b again and again while the server takes it.
func (h *hostile) flood(c *client, b []byte) {
	for !h.over() && c.put(b, 5*time.Second) == nil {
	}
}

// pipeline writes numbered requests without waiting for answers, which must come in order
// and without a gap.
func (h *hostile) pipeline(c *client) {
	go func() {
		for n := 0; !h.over(); n += 100 {
			var b []byte
			for i := range 100 {
				b = wire(b, 1, 1, fmt.Sprint(n+i))
			}
			if c.put(b, time.Minute) != nil {
				return
			}
		}
	}()
	for n := 0; ; {
		f, err := c.next(time.Minute)
		if err != nil {
			h.fault("pipelining: %v", err)
			return
		}
		switch {
		case f.is(1, 2), f.is(0, 1):
		case f.is(1, 1) && f.body == fmt.Sprint(n):
			n++
		default:
			h.fault("pipelining: answer %d is %v", n, f)
			return
		}
	}
}

// sip reads at most n bytes now and then.
func (h *hostile) sip(c *client, n int, every time.Duration) {
	for b := make([]byte, n); h.pause(every); {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := io.ReadFull(c.Conn, b); err != nil && !timedOut(err) {
			return
		}
	}
}

// drain reads and throws away until the stream ends, at most for the time given.
func (h *hostile) drain(c *client, within time.Duration) {
	c.SetReadDeadline(time.Now().Add(within))
	io.Copy(io.Discard, c.r)
}

// withoutPushes leaves out what a client did not ask for.
func withoutPushes(all []frame) (rest []frame) {
	for _, f := range all {
		if !f.is(1, 2) && !f.is(0, 1) {
			rest = append(rest, f)
		}
	}
	return rest
}

// halfClose sends requests and a FIN; each is answered, in order, and then the server closes.
func (h *hostile) halfClose(c *client) {
	n := 1 + h.r.IntN(60)
	size := h.r.IntN(4 * kib)
	var b []byte
	for i := range n {
		b = wire(b, 1, 1, fmt.Sprintf("%03d", i)+strings.Repeat("h", size))
	}
	go func() {
		if c.put(b, 10*time.Second) == nil {
			c.fin()
		}
	}()
	all, end := c.rest(10 * time.Second)
	if err := echoes(withoutPushes(all), n); err != nil || !errors.Is(end, io.EOF) {
		h.fault("half-closed with %d requests owed: %v, then %v", n, err, end)
	}
}

// badMiddle puts a bad length between requests: those in front are answered, the ERROR is
// the last frame.
func (h *hostile) badMiddle(c *client) {
	n := h.r.IntN(30)
	var b []byte
	for i := range n {
		b = wire(b, 1, 1, fmt.Sprintf("%03d", i))
	}
	b = append(b, badHeader()...)
	if c.put(append(b, repeat(10, 1, 1, "behind")...), 5*time.Second) != nil {
		return
	}
	all, end := c.rest(10 * time.Second)
	if err := lastIsBadFrame(all, end); err != nil {
		h.fault("a bad length behind %d requests: %v", n, err)
	} else if err := echoes(withoutPushes(all[:len(all)-1]), n); err != nil {
		h.fault("a bad length behind %d requests: %v", n, err)
	}
}

// echoes returns an error unless all are the answers to echoes numbered from 0 to n-1.
func echoes(all []frame, n int) error {
	for i, f := range all {
		if !f.is(1, 1) || !strings.HasPrefix(f.body, fmt.Sprintf("%03d", i)) {
			return fmt.Errorf("answer %d is %v", i, f)
		}
	}
	if len(all) != n {
		return fmt.Errorf("%d answers to %d requests", len(all), n)
	}
	return nil
}
