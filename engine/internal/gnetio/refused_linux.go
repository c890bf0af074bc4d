package gnetio

import (
	"context"
	"time"

	"github.com/panjf2000/gnet/v2"

	"millrace/engine/internal/netio"
)

// refusedExcess is how many bytes a refused connection may send before it is cut off.
const refusedExcess = 1 << 20

// refused is a connection that was turned away: what it sends is thrown away for a
// while, so that the goodbye reaches it. Loop goroutine only.
type refused struct {
	c     *conn
	place int // in loop.refused
	since time.Time
	n     int
}

func (x *refused) Received(b []byte) {
	if x.n += len(b); x.n > refusedExcess {
		x.c.Close()
	}
}

func (x *refused) HungUp(bool) {}

func (x *refused) Closed(netio.End) {
	l := x.c.l
	last := len(l.refused) - 1
	l.refused[x.place] = l.refused[last]
	l.refused[x.place].place = x.place
	l.refused[last] = nil
	l.refused = l.refused[:last]
	l.refusals.Store(int32(last))
}

// turnAway answers a connection that the Host did not take.
func (l *loop) turnAway(c *conn, no netio.Refusal) gnet.Action {
	cfg := &l.n.cfg
	goodbye(int(c.fd), no.Goodbye)
	if no.AtOnce || len(l.refused) >= max(1, cfg.MaxRefused/cfg.Loops) {
		emptyInput(int(c.fd))
		return gnet.Close
	}
	x := &refused{c: c, place: len(l.refused), since: time.Now()}
	c.sink = x
	l.refused = append(l.refused, x)
	l.refusals.Store(int32(len(l.refused)))
	return gnet.None
}

// sweepRefused closes refused connections that have had their time.
func (l *loop) sweepRefused() {
	if !l.sweepDue.Swap(false) {
		return
	}
	for i := len(l.refused) - 1; i >= 0; i-- {
		if x := l.refused[i]; time.Since(x.since) > l.n.cfg.Linger {
			x.c.Close()
		}
	}
}

// askSweep has sweepRefused called on the loop's goroutine. Any goroutine.
func (l *loop) askSweep() {
	if l.refusals.Load() == 0 || l.sweepDue.Swap(true) {
		return
	}
	if si := l.standIn.Load(); si != nil {
		si.wake()
		return
	}
	_ = l.el.Execute(context.Background(), sweeper{l})
}

type sweeper struct{ l *loop }

func (s sweeper) Run(context.Context) error {
	s.l.sweepRefused()
	return nil
}
