package cluster

import (
	"time"

	"millrace/services"
)

// endWaits ends all waits with err, in no order. l.mu is held; their functions run later.
func (l *locks) endWaits(err error) {
	var ended []*lockItem
	for _, k := range l.keys {
		for _, it := range k.waits {
			l.waits--
			l.end(it)
			ended = append(ended, it)
		}
		k.waits = nil
	}
	go func() {
		for _, it := range ended {
			services.Deliver(it.o.On, func() { it.done(0, err) }, nil)
		}
	}()
}

// outages ends the waits once the servers have been unreachable for Config.Timeout. A shorter outage
// costs no wait its place.
func (l *locks) outages() {
	for {
		again, stood := l.n.again.next(), l.n.stood.Load() // in this order: it fires behind a new connection
		select {
		case <-l.run.Done():
			return
		case <-stood.ctx.Done():
		}
		select {
		case <-l.run.Done():
			return
		case <-again:
			continue
		case <-time.After(l.c.cfg.Timeout - l.n.away()):
		}
		l.mu.Lock()
		if l.n.unreachable() && !l.closed {
			l.endWaits(errAway)
		}
		l.mu.Unlock()
		select {
		case <-l.run.Done():
			return
		case <-again:
		}
	}
}

// refuseAll ends everything, because the store can't be trusted.
func (l *locks) refuseAll(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive = time.Time{}
	l.changed()
	l.loseAll()
	l.endWaits(err)
}
