package cluster

import (
	"fmt"
	"time"
)

// AskThen is Ask without waiting. then is called exactly once, with the answer or the error, at
// the time until at the latest. If AskThen itself returns an error, one of Publish's, then is not
// called. Requests are sent in order with published messages, and data belongs to the bus from
// now on. AskThen never blocks.
//
// then runs on a goroutine of the bus. It must not block, because other answers wait for it, and
// must not call Stop.
func (b *Bus) AskThen(until time.Time, subject string, data []byte, then func(answer []byte, err error)) error {
	a, _ := b.thens.Get().(*ask)
	if a == nil {
		a = &ask{want: 1}
		a.timer = time.AfterFunc(time.Hour, func() { b.expire(a) })
		a.timer.Stop()
	}
	b.mu.Lock()
	if len(b.asks) >= b.cfg.MaxAsks {
		b.mu.Unlock()
		b.thens.Put(a)
		b.refused.Add(1)
		return ErrOverloaded
	}
	b.last++
	id := b.last
	a.id, a.subject, a.sent, a.then, a.until = id, subject, false, then, until
	b.asks[id] = a
	a.timer.Reset(time.Until(until))
	b.mu.Unlock()
	err := b.put(outgoing{subject: subject, data: data, ask: id, reply: b.replyTo(id)})
	if err == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asks[id] == nil {
		return nil // Stop or the timer has called then meanwhile
	}
	b.take(a)
	return err
}

// take ends a request of AskThen. The caller holds mu, and calls what take returns after
// unlocking it.
func (b *Bus) take(a *ask) (then func([]byte, error)) {
	delete(b.asks, a.id)
	then = a.then
	a.timer.Stop() // if it is firing already, expire finds the request gone
	a.then, a.subject = nil, ""
	b.thens.Put(a)
	return then
}

// expire runs on the goroutine of a request's timer. A late timer of an earlier request, whose ask
// has been reused, changes nothing.
func (b *Bus) expire(a *ask) {
	b.mu.Lock()
	if b.asks[a.id] != a || time.Now().Before(a.until) {
		b.mu.Unlock()
		return
	}
	err := a.overdue()
	then := b.take(a)
	b.mu.Unlock()
	then(nil, err)
}

// overdue returns the error for a request whose time is up. Bus.mu is held.
func (a *ask) overdue() error {
	if !a.sent {
		return fmt.Errorf("%w: it waited too long to be sent", ErrUnavailable)
	}
	return ErrNoAnswer
}

// tellAll ends the requests in progress for which why returns an error, with that error.
func (b *Bus) tellAll(why func(a *ask) error) {
	type call struct {
		then func([]byte, error)
		err  error
	}
	var ended []call
	b.mu.Lock()
	for _, a := range b.asks {
		err := why(a)
		switch {
		case err == nil:
		case a.then != nil:
			ended = append(ended, call{b.take(a), err})
		default:
			a.tell(result{err: err})
		}
	}
	b.mu.Unlock()
	for _, e := range ended {
		e.then(nil, e.err)
	}
}
