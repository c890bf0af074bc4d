package nodes

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// AskThen is Ask without waiting: it never blocks, so it may be called on a loop, and it needs no
// goroutine. then is called once, with the outcome that Ask would have returned: on the calling
// goroutine if that is known at once, in the room if this node is its home, otherwise on one of the
// node's goroutines. It must not block, because other messages and answers wait for it. body belongs
// to the room from then on.
//
// Only the deadline of ctx is used; cancelling it does not cancel the message.
func (h *Homes[S]) AskThen(ctx context.Context, key string, body []byte, then func(answer []byte, err error)) {
	if err := h.checkKey(key); err != nil {
		then(nil, err)
		return
	}
	q := &asked[S]{h: h, key: key, body: body, then: then, attempts: attempts{until: h.n.until(ctx, CallOptions{Timeout: h.n.cfg.Timeout})}}
	q.send()
}

// asked is a message of AskThen.
type asked[S any] struct {
	h    *Homes[S]
	key  string
	body []byte
	then func([]byte, error)
	attempts
}

// send makes one attempt, at the room's presumed home.
func (q *asked[S]) send() {
	h := q.h
	switch process, free := h.where(q.key); process {
	case h.n.process:
		h.handleThen(q.until, q.key, q.body, q.outcome)
	case 0:
		q.outcome(nil, cluster.ErrUnavailable)
	default:
		h.n.questionThen(q.until, askSubject(process), h.envelope(q.key, q.body, free), q.outcome)
	}
}

// outcome ends the message, or has it sent again.
func (q *asked[S]) outcome(answer []byte, err error) {
	wait, err := q.next(q.h.n, err)
	if wait == 0 {
		q.then(answer, err)
		return
	}
	time.AfterFunc(wait, func() { q.h.n.guard(q.send) })
}

// handleThen is handle for who does not wait: then is called once.
func (h *Homes[S]) handleThen(until time.Time, key string, body []byte, then func([]byte, error)) {
	rooms := h.here()
	if rooms == nil {
		then(nil, cluster.ErrUnavailable)
		return
	}
	var over atomic.Bool // then has been called, or is being called
	t := time.AfterFunc(time.Until(until), func() {
		if !over.Swap(true) {
			h.n.guard(func() { then(nil, cluster.ErrNoAnswer) })
		}
	})
	done := func(answer []byte, err error) {
		if !over.Swap(true) {
			t.Stop()
			h.n.guard(func() { then(answer, err) })
		}
	}
	err := rooms.PostOr(key, func(room *services.Room[string, *Home[S]]) {
		done(h.message(room, body, over.Load()))
	}, func(err error) { done(nil, h.lostMessage(err)) })
	if err != nil {
		done(nil, untaken(err))
	}
}

// attempts are the attempts to send one message to its room.
type attempts struct {
	until time.Time     // the last ends then
	wait  time.Duration // before the last; 0: it was the first
}

// next returns how long to wait before the next attempt, when the last has ended with err; or 0 and the
// message's outcome.
func (a *attempts) next(n *Node, err error) (wait time.Duration, outcome error) {
	a.wait = min(max(leastWait, 2*a.wait), mostWait)
	switch {
	case !noHome(err):
		return 0, err
	case n.bus != nil && !n.bus.Up(): // there are other nodes, which can't be reached now
		return 0, cluster.ErrUnavailable
	case time.Until(a.until) < a.wait+leastLeft:
		return 0, errNoHome
	}
	return a.wait, nil
}

const (
	// A message to a room without a home is sent again after leastWait, then after twice as long,
	// mostWait at most.
	leastWait, mostWait = 5 * time.Millisecond, 100 * time.Millisecond
	// leastLeft is how much time a message must have left: with less, the outcome of one that is
	// sent now would probably be unknown.
	leastLeft = 20 * time.Millisecond
)

var errNoHome = fmt.Errorf("%w: the room has no home now", cluster.ErrUnavailable)

func (h *Homes[S]) checkKey(key string) error {
	if most := envelope.MaxKey - len(h.cfg.Name) - 1; len(key) > most {
		return services.Errorf(engine.CodeBadBody, "a room's name has at most %d bytes", most)
	}
	return nil
}

// noHome reports whether an error says that the room was not where a message went, and did not
// handle it.
func noHome(err error) bool {
	return errors.Is(err, errElsewhere) || errors.Is(err, cluster.ErrUnavailable)
}
