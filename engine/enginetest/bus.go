package enginetest

import (
	"sync"
	"time"
)

// Bus carries messages between the nodes of a simulation, which would be processes in production:
// with delays, and at random some are lost or duplicated. Messages of one node to another keep
// their order.
type Bus struct {
	w *World

	From, To time.Duration // how long a message takes; 200 µs to 5 ms
	Lost     int           // one message in so many is lost; 0: none
	Doubled  int           // one message in so many is duplicated; 0: none

	mu    sync.Mutex
	nodes []*BusNode // guarded by mu; in the order in which they joined
}

// BusNode is a node of a Bus. Its methods may be called from any goroutine.
type BusNode struct {
	b    *Bus
	name string
	on   Submitter
	fn   func(from string, msg []byte)

	// Guarded by b.mu.
	last   map[*BusNode]time.Time // when the last message to that one arrives
	apart  map[*BusNode]bool      // no messages are exchanged with these
	paused bool
	gone   bool
	waits  []func() // messages that arrived while it was paused
}

// Bus makes a bus.
func (w *World) Bus() *Bus { return &Bus{w: w, From: 200 * time.Microsecond, To: 5 * time.Millisecond} }

// Join makes a node: fn is called on the submitter, a server's pool for example, for each message
// that arrives. A message that on refuses is lost.
func (b *Bus) Join(name string, on Submitter, fn func(from string, msg []byte)) *BusNode {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := &BusNode{b: b, name: name, on: on, fn: fn, last: map[*BusNode]time.Time{}, apart: map[*BusNode]bool{}}
	b.nodes = append(b.nodes, n)
	return n
}

// Send sends a message, which is copied, to the node of that name.
func (n *BusNode) Send(to string, msg []byte) {
	n.each(func(x *BusNode) {
		if x.name == to {
			n.send(x, msg)
		}
	})
}

// Publish sends msg to all other nodes.
func (n *BusNode) Publish(msg []byte) { n.each(func(x *BusNode) { n.send(x, msg) }) }

func (n *BusNode) each(fn func(*BusNode)) {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	for _, x := range n.b.nodes {
		if x != n {
			fn(x)
		}
	}
}

// send schedules the message's arrival, or drops it. Caller holds b.mu.
func (n *BusNode) send(to *BusNode, msg []byte) {
	b := n.b
	if n.gone || to.gone || n.apart[to] || b.Lost > 0 && b.w.Chance(b.Lost) {
		b.w.trace.note("bus loses", 0, 0, len(msg), msg)
		return
	}
	copies := 1
	if b.Doubled > 0 && b.w.Chance(b.Doubled) {
		copies = 2
	}
	msg = append([]byte(nil), msg...)
	for range copies {
		at := time.Now().Add(b.w.Between(b.From, b.To))
		if last := n.last[to]; at.Before(last) {
			at = last
		}
		n.last[to] = at
		b.w.After(time.Until(at), func() { n.arrives(to, msg) })
	}
}

// arrives delivers the message to its node.
func (n *BusNode) arrives(to *BusNode, msg []byte) {
	b := n.b
	b.mu.Lock()
	lost := to.gone || n.apart[to]
	if !lost && to.paused {
		to.waits = append(to.waits, func() { n.arrives(to, msg) })
		lost = true
	}
	b.mu.Unlock()
	if lost {
		return
	}
	b.w.trace.note("bus", 0, 0, len(msg), msg)
	_ = to.on.Submit(func() { to.fn(n.name, msg) })
}

// Part stops all messages between this node and another, or ends that. Messages in flight are lost
// too.
func (n *BusNode) Part(from string, apart bool) {
	n.each(func(x *BusNode) {
		if x.name == from {
			n.apart[x], x.apart[n] = apart, apart
		}
	})
}

// Pause queues messages to the node until it resumes; then all arrive at once.
func (n *BusNode) Pause(pause bool) {
	n.b.mu.Lock()
	n.paused = pause
	waits := n.waits
	if pause {
		waits = nil
	} else {
		n.waits = nil
	}
	n.b.mu.Unlock()
	for _, fn := range waits {
		n.b.w.After(0, fn)
	}
}

// Leave ends the node: nothing reaches it, and nothing that it sends arrives.
func (n *BusNode) Leave() {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	n.gone = true
}
