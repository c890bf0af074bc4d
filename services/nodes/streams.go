package nodes

import (
	"errors"
	"maps"
	"sync"

	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// outbound is a stream from this node to others: its messages are numbered from 1.
type outbound struct {
	mu   sync.Mutex
	last uint64 // guarded by mu
}

// publish numbers e and sends it. A message that could not be sent has a number too, so its
// receivers notice that they have missed it.
func (o *outbound) publish(n *Node, subject string, e envelope.Envelope) error {
	_, err := o.number(n, subject, e)
	return err
}

// number is publish, and tells what the message's number is; 0: it has none.
func (o *outbound) number(n *Node, subject string, e envelope.Envelope) (uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.Number = o.last + 1
	b, err := n.seal(e)
	if err != nil {
		return 0, err
	}
	if err = n.bus.Publish(subject, b); errors.Is(err, cluster.ErrTooLarge) {
		return 0, err
	}
	o.last++
	return o.last, err
}

// at is the number of the last message.
func (o *outbound) at() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// inbound are the streams of one kind from others to this node. Only the delivering goroutine uses it.
type inbound struct {
	last numbers
	// whole: the streams begin with 1 for this process, so messages missed before the first
	// received one are known.
	whole bool
}

// take reports whether a message is new, and how many before it have not arrived.
func (in *inbound) take(n *Node, from, number uint64) (fresh bool, missed uint64) {
	last, known := in.last.of(from)
	switch {
	case number == 0:
		return true, 0
	case number == 1: // it begins, again if the sender had forgotten it: see recents
	case !known && !in.whole:
	case number <= last:
		return false, 0
	default:
		missed = number - last - 1
	}
	in.last.set(from, number, n.living)
	return true, missed
}

// at records that a stream is at a number, and returns how many messages up to it have not arrived.
func (in *inbound) at(n *Node, from, number uint64) (missed uint64) {
	last, known := in.last.of(from)
	if known && number > last {
		missed = number - last
	}
	in.last.set(from, max(last, number), n.living)
	return missed
}

// numbers has the number of the last message of each process, in streams of one kind.
type numbers = recents[uint64, uint64]

// recents keeps what is known of those that were used recently, and of those that live.
//
// When recent is full it becomes older, and of older those are left that live. So a process that has ended
// is forgotten, and one that has lost its name for a moment is not.
type recents[K comparable, V any] struct {
	recent, older map[K]V // none is in both
	full          int     // how many recent has at most
}

// maxStreams is how many recent ones are kept besides those that live.
const maxStreams = 4096

func (x *recents[K, V]) of(key K) (value V, known bool) {
	value, known = x.recent[key]
	if !known {
		value, known = x.older[key]
	}
	return value, known
}

func (x *recents[K, V]) set(key K, value V, living func() map[K]bool) {
	switch {
	case x.recent == nil:
		x.recent, x.older, x.full = map[K]V{}, map[K]V{}, maxStreams
	case len(x.recent) >= x.full:
		lives := living()
		maps.DeleteFunc(x.older, func(k K, _ V) bool { return !lives[k] })
		x.recent, x.older, x.full = x.older, x.recent, maxStreams+2*len(lives)
	}
	delete(x.older, key)
	x.recent[key] = value
}

// post is publish for a message that is answered.
func (o *outbound) post(n *Node, subject string, e envelope.Envelope) (cluster.Question, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.Number = o.last + 1
	b, err := n.seal(e)
	if err != nil {
		return cluster.Question{}, err
	}
	q, err := n.bus.Post(subject, b, 1)
	if err == nil {
		o.last++
	}
	return q, err
}
