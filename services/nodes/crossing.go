package nodes

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"millrace/engine"
	"millrace/services/nodes/internal/carry"
	"millrace/services/nodes/internal/envelope"
)

// crossing orders the messages of a group, or the broadcasts, with the moves of sessions. A message
// is given to the sessions of this node, and its number is noted, with mu read-locked; a session
// joins or leaves the node with mu locked. So for each message it is known whether it was given
// before or after that, by its number in its sender's stream.
//
// The node that takes a session first keeps all further messages for it, and says which numbers it
// has received before. The node that has the session gives it away when it has received those too,
// so that no message is missed between the two, and says which numbers it has given to the session.
// When the first node has received those, the session gets the kept messages with higher numbers,
// and then all that follow. Whoever has mu locked must not block, and must not wait for a loop.
type crossing struct {
	mu sync.RWMutex
	// at is the number of the last message given here, by process. Only the delivering goroutine
	// writes it, with mu read-locked; others read it with mu locked.
	at     numbers
	coming []*coming // guarded by mu
}

// cross gives a frame of another node to the engine, as patiently does, and notes its number. Called by
// the delivering goroutine.
func (n *Node) cross(c *crossing, e envelope.Envelope, send func() error) {
	given := false
	n.patiently(e, func() error {
		c.mu.RLock()
		defer c.mu.RUnlock()
		err := send()
		if !errors.Is(err, engine.ErrOutboxFull) && !errors.Is(err, engine.ErrMemory) {
			given = true
			c.given(n, e)
		}
		return err
	})
	if !given {
		c.mu.RLock()
		defer c.mu.RUnlock()
		c.given(n, e)
	}
}

// given notes that a message of another node has been given to the sessions here, and keeps it for
// those that are coming. mu is read-locked.
func (c *crossing) given(n *Node, e envelope.Envelope) {
	c.at.set(e.Source, e.Number, n.living)
	c.pass(e)
}

// pass keeps a message for the sessions that are coming. mu is locked or read-locked.
func (c *crossing) pass(e envelope.Envelope) {
	if len(c.coming) > 0 {
		e.Body = bytes.Clone(e.Body) // one copy for all of them
	}
	for _, x := range c.coming {
		x.keep(e)
	}
}

// past notes that all messages of a process up to a number have been received or are lost. Called by
// the delivering goroutine.
func (c *crossing) past(n *Node, from, number uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	at, _ := c.at.of(from)
	c.at.set(from, max(at, number), n.living)
}

// reached reports whether the messages of all living processes have been given here up to the numbers
// in want. mu is locked.
func (c *crossing) reached(n *Node, want map[uint64]uint64) bool {
	for process, number := range want {
		if at, _ := c.at.of(process); at >= number || process == n.process {
			continue
		}
		if _, lives := n.byProcess(process); lives {
			return false
		}
	}
	return true
}

// meetTime is how long meet waits for messages of other nodes. Those that have not arrived by then
// count as lost; the node that notices the gap in a stream reports it.
const meetTime = time.Second

// crossings are the crossings that concern one session: of its groups, and of broadcasts. They are
// locked in the order of the groups' names, broadcasts last.
type crossings struct {
	n      *Node
	groups []*group // sorted by name
}

func (cs crossings) lock() {
	for _, g := range cs.groups {
		g.cross.mu.Lock()
	}
	cs.n.casts.mu.Lock()
}

func (cs crossings) unlock() {
	cs.n.casts.mu.Unlock()
	for _, g := range cs.groups {
		g.cross.mu.Unlock()
	}
}

// seen returns the numbers up to which the messages of each stream have been given here. All are
// locked.
func (cs crossings) seen() []carry.Stream {
	n := cs.n
	list := []carry.Stream{{At: n.casts.seen(n.process, n.all.at())}}
	for _, g := range cs.groups {
		list = append(list, carry.Stream{Name: streamOf(envelope.Group, g.name), At: g.cross.seen(n.process, g.out.at())})
	}
	return list
}

// meet locks the crossings when the messages up to the numbers in at have been given here, or after
// meetTime, or when ctx ends.
func (cs crossings) meet(ctx context.Context, at []carry.Stream) {
	want := map[string]map[uint64]uint64{}
	for _, x := range at {
		want[x.Name] = x.At
	}
	for end := time.Now().Add(meetTime); ; {
		cs.lock()
		met := cs.n.casts.reached(cs.n, want[""])
		for _, g := range cs.groups {
			met = met && g.cross.reached(cs.n, want[streamOf(envelope.Group, g.name)])
		}
		if met || time.Now().After(end) {
			return
		}
		cs.unlock()
		if !sleep(ctx, time.Millisecond) {
			cs.lock()
			return
		}
	}
}

// seen returns the numbers up to which messages have been given to the sessions here, by process; own
// is that of this node's own messages. mu is locked.
func (c *crossing) seen(self, own uint64) map[uint64]uint64 {
	at := map[uint64]uint64{}
	maps.Copy(at, c.at.older)
	maps.Copy(at, c.at.recent)
	at[self] = own
	return at
}

// coming keeps what is sent to the groups of a session, and to all sessions, while it is moving here.
type coming struct {
	most int   // limit in bytes: all of it must fit into the session's outbox
	in   *load // counts the bytes

	mu    sync.Mutex
	kept  []envelope.Envelope // guarded by mu
	bytes int                 // guarded by mu
	over  bool                // guarded by mu; most was exceeded, or release was called: nothing is kept
}

// keptCost is the approximate memory of a kept message besides its body, in bytes.
const keptCost = 128

// keep keeps a message, whose body must not change any more.
func (x *coming) keep(e envelope.Envelope) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return
	}
	cost := keptCost + len(e.Body)
	if x.bytes+cost > x.most {
		x.in.add(-x.bytes)
		x.over, x.kept, x.bytes = true, nil, 0
		return
	}
	x.in.add(cost)
	x.bytes += cost
	x.kept = append(x.kept, e)
}

// hasRoom reports whether at most half of the limit is used, so that as much may still come: after the
// commit the move can't be undone.
func (x *coming) hasRoom() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.over && x.bytes <= x.most/2
}

// take returns what was kept; false if it was too much.
func (x *coming) take() ([]envelope.Envelope, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.kept, !x.over
}

// release drops what was kept; nothing more is kept.
func (x *coming) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.in.add(-x.bytes)
	x.over, x.kept, x.bytes = true, nil, 0
}
