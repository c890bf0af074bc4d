package gnetio

import (
	"context"
	"time"

	"github.com/panjf2000/gnet/v2"

	"millrace/engine/internal/netio"
)

// refusedExcess is how many bytes of a refused connection are discarded before it is closed.
const refusedExcess = 1 << 20

// refused is the Sink of a connection that the Host refused. Its input is discarded for
// Config.Linger: closing with unread input would send a reset, which may destroy the goodbye
// before the peer reads it. Loop goroutine only.
type refused struct {
	c     *conn
	place int // index in loop.refused
	since time.Time
	n     int // bytes discarded
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

// turnAway sends the goodbye of a connection that the Host refused, and closes or keeps it.
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

// sweepRefused closes the refused connections older than Config.Linger. Loop goroutine, or its
// stand-in's.
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

// askSweep makes the loop's goroutine call sweepRefused, if there are refused connections. Any
// goroutine.
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
