package enginetest

import (
	"sync"
	"time"
)

// Bus carries messages between the nodes of a world, what would be processes otherwise: late,
// and by chance not at all or twice; those of one node to another never in another order.
type Bus struct {
	w *World

	From, To time.Duration // how long a message takes; 200 µs to 5 ms
	Lost     int           // one message in so many is; 0: none
	Doubled  int           // of one in so many a copy follows; 0: none

	mu    sync.Mutex
	nodes []*BusNode // guarded by mu; in the order in which they joined
}

// BusNode is one of a Bus. Any goroutine may use it.
type BusNode struct {
	b    *Bus
	name string
	on   Submitter
	fn   func(from string, msg []byte)

	// Guarded by b.mu.
	last   map[*BusNode]time.Time // when the last message to that one arrives
	apart  map[*BusNode]bool      // nothing goes either way
	paused bool
	gone   bool
	waits  []func() // what has come while it was paused
}

// Bus makes one.
func (w *World) Bus() *Bus { return &Bus{w: w, From: 200 * time.Microsecond, To: 5 * time.Millisecond} }

// Join makes a node: fn is called on the submitter, a server's pool, say, for each message
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

// Publish sends it to all others.
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

// send has the message arrive, or not. b.mu is held.
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

// arrives brings the message to its node.
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

// Part has nothing go between this node and another, or ends that: what is on its way is
// lost too.
func (n *BusNode) Part(from string, apart bool) {
	n.each(func(x *BusNode) {
		if x.name == from {
			n.apart[x], x.apart[n] = apart, apart
		}
	})
}

// Pause has nothing come to the node until it goes on; then all of it does at once.
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

// Leave is the node's end: nothing comes to it, and nothing that it sends arrives.
func (n *BusNode) Leave() {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	n.gone = true
}
