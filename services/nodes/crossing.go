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

// crossing is where the messages of a group, or broadcasts, meet sessions that come from
// other nodes and go to them. A message is given to the sessions here, and counted as given,
// with mu read-locked; a session comes or goes with mu locked. So of each message it is known
// on which side of that it is, by its number in its sender's stream.
//
// A node that takes a session keeps what comes from then on, and tells how far it is. The
// node that has it lets it go when it is as far, so nothing is between the two; and tells how
// far that is. When the first node has come there, the session gets what it has not had of what
// was kept, and what comes behind that. Who has mu locked waits
// for nothing, least of all for a loop.
type crossing struct {
	mu     sync.RWMutex
	at     map[uint64]uint64 // by process: the last that was given here; written by the goroutine that delivers alone
	coming []*coming         // guarded by mu
}

// cross hands a frame of another node to the engine, as patiently does.
func (n *Node) cross(c *crossing, e envelope.Envelope, send func() error) {
	given := false
	n.patiently(func() error {
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

// given notes that a message of another node has been given to the sessions here. mu is held.
func (c *crossing) given(n *Node, e envelope.Envelope) {
	if c.at == nil {
		c.at = map[uint64]uint64{}
	}
	if len(c.at) >= maxStreams {
		living := n.living()
		maps.DeleteFunc(c.at, func(p uint64, _ uint64) bool { return !living[p] })
	}
	c.at[e.Source] = e.Number
	c.pass(e)
}

// pass keeps a message for the sessions that are coming. mu is held, to read at least.
func (c *crossing) pass(e envelope.Envelope) {
	if len(c.coming) > 0 {
		e.Body = bytes.Clone(e.Body) // one copy for all of them
	}
	for _, x := range c.coming {
		x.keep(e)
	}
}

// past notes that no message of a process up to a number comes any more. The goroutine that
// delivers calls it.
func (c *crossing) past(from, number uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.at == nil {
		c.at = map[uint64]uint64{}
	}
	c.at[from] = max(c.at[from], number)
}

// reached tells whether all that comes from living processes has come, up to want. mu is
// locked.
func (c *crossing) reached(n *Node, want map[uint64]uint64) bool {
	for process, number := range want {
		if c.at[process] >= number || process == n.process {
			continue
		}
		if _, lives := n.byProcess(process); lives {
			return false
		}
	}
	return true
}

// meetTime is how long what is on its way from other nodes is waited for: what has not come
// then is lost, and told as a gap where that is seen.
const meetTime = time.Second

// crossings are those that concern one session.
type crossings struct {
	n      *Node
	groups []*group // by name
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

// seen is how far they are. They are locked.
func (cs crossings) seen() []carry.Stream {
	n := cs.n
	list := []carry.Stream{{At: n.casts.seen(n.process, n.all.at())}}
	for _, g := range cs.groups {
		list = append(list, carry.Stream{Name: streamOf(envelope.Group, g.name), At: g.cross.seen(n.process, g.out.at())})
	}
	return list
}

// meet locks them when they are as far as another node was, or when that has taken too long.
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

// seen is what the sessions here have had, of this node's own messages up to own. mu is locked.
func (c *crossing) seen(self, own uint64) map[uint64]uint64 {
	at := maps.Clone(c.at)
	if at == nil {
		at = map[uint64]uint64{}
	}
	at[self] = own
	return at
}

// coming is what is sent to the groups of a session, and to all, while it is on its way here.
type coming struct {
	most int   // what one outbox takes, as the session's is where it all goes
	in   *load // where it counts

	mu    sync.Mutex
	kept  []envelope.Envelope // guarded by mu
	bytes int                 // guarded by mu
	over  bool                // guarded by mu; it was too much
}

// keptCost is about what a kept message costs beside its body, in bytes.
const keptCost = 128

// keep keeps a message, whose body does not change.
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

// hasRoom tells whether as much may come as has come so far: behind the cut there is no way back.
func (x *coming) hasRoom() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.over && x.bytes <= x.most/2
}

// take returns what was kept; false: it was too much.
func (x *coming) take() ([]envelope.Envelope, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.kept, !x.over
}

// release says that nothing is kept any more.
func (x *coming) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.in.add(-x.bytes)
	x.over, x.kept, x.bytes = true, nil, 0
}
