package nodes

import (
	"errors"
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

// inbound are the streams of one kind from others to this node: the last number of each process.
// Only the delivering goroutine uses it.
type inbound struct {
	last map[uint64]uint64
	// whole: the streams begin with 1 for this process, so messages missed before the first
	// received one are known.
	whole bool
}

// take reports whether a message is new, and how many before it have not arrived.
func (in *inbound) take(from, number uint64) (fresh bool, missed uint64) {
	last, known := in.last[from]
	switch {
	case number == 0:
		return true, 0
	case number == 1: // it begins, again if the sender had removed the group
	case !known && !in.whole:
	case number <= last:
		return false, 0
	default:
		missed = number - last - 1
	}
	in.set(from, number)
	return true, missed
}

// at records that a stream is at a number, and returns how many messages up to it have not arrived.
func (in *inbound) at(from, number uint64) (missed uint64) {
	last, known := in.last[from]
	if known && number > last {
		missed = number - last
	}
	if !known || number > last {
		in.set(from, number)
	}
	return missed
}

func (in *inbound) set(from, number uint64) {
	if in.last == nil {
		in.last = map[uint64]uint64{}
	}
	in.last[from] = number
}

// maxStreams is how many processes are kept before ended ones are removed.
const maxStreams = 4096

// trim removes processes that don't live, if there are many.
func (in *inbound) trim(n *Node) {
	if len(in.last) <= maxStreams {
		return
	}
	living := n.living()
	for p := range in.last {
		if !living[p] {
			delete(in.last, p)
		}
	}
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
