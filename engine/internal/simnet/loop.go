package simnet

import (
	"iter"
	"time"

	"millrace/engine/internal/netio"
)

// Loop is one event loop.
type Loop struct {
	n      *Net
	index  int
	turner netio.Turner
	buf    []byte // of a read; valid until it has been handled

	// Guarded by n.mu.
	asked    bool          // a turn is to be had
	busy     bool          // its goroutine is inside a step
	away     bool          // another goroutine does its work
	held     *Conn         // in whose call it is meanwhile
	standing chan struct{} // not nil: that goroutine is inside a step; closed when it has ended
}

var _ netio.Loop = (*Loop)(nil)

// Index is the loop's place among the network's.
func (l *Loop) Index() int { return l.index }

func (l *Loop) Kind() netio.LoopKind { return netio.LoopAccepts }

func (l *Loop) Execute() error {
	l.n.mu.Lock()
	l.asked = true
	l.n.mu.Unlock()
	l.n.hooks.Wake()
	return nil
}

// Idle tells whether nothing is ready to be read. By chance something was, for a moment, so
// that the loop's work is cut into more turns than it need be.
func (l *Loop) Idle() bool {
	if l.n.hooks.Chance(3) {
		return false
	}
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for _, c := range l.n.conns {
		if c.l == l && (c.canAccept() || c.canRead() || c.mustEnd()) {
			return false
		}
	}
	return true
}

// StandIn has the loop's steps done as those of Step.StandIn until giveBack is called.
func (l *Loop) StandIn(busy netio.Conn, _ iter.Seq[netio.Conn]) (giveBack func(), ok bool) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.away || !l.busy {
		return nil, false
	}
	l.away = true
	l.held, _ = busy.(*Conn)
	l.n.hooks.Note(Event{What: "stands in", Loop: l.index})
	l.n.hooks.Wake()
	return func() {
		l.n.mu.Lock()
		l.away, l.held = false, nil
		wait := l.standing
		l.n.hooks.Note(Event{What: "given back", Loop: l.index})
		l.n.mu.Unlock()
		if wait != nil {
			<-wait
		}
		l.n.hooks.Wake()
	}, true
}

// Kind is what a Step does.
type Kind uint8

const (
	Turn     Kind = iota // the loop's own turn
	Accept               // of a connection
	Read                 // some of what has come
	End                  // a FIN, or a reset
	HangUp               // it is told while a call of the connection's holds the loop up
	Expire               // a refused connection has had its time
	Shut                 // the network stops
	Writable             // the kernel takes bytes again; of no loop
)

var kindNames = [...]string{"turn", "accept", "read", "end", "hang-up", "expire", "shut", "writable"}

func (k Kind) String() string { return kindNames[k] }

// Step is something that can happen.
type Step struct {
	Kind    Kind
	Loop    *Loop // on whose goroutine; nil: on no loop's
	StandIn bool  // on that of the one that does the loop's work meanwhile
	Conn    *Conn
}

// Settle has arrive what is due, and clients read. It tells whether a Stop that waits goes on.
func (n *Net) Settle() (over bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	left := n.conns[:0]
	for _, c := range n.conns {
		c.in.settle(now)
		for c.out.settle(now) && !c.stalled {
			c.read()
		}
		c.read()
		if c.closed && len(c.in.ready) > 0 {
			c.refuse()
		}
		if !c.closed || len(c.out.queue) > 0 && !c.out.silent || len(c.out.ready) > 0 {
			left = append(left, c)
		}
	}
	clear(n.conns[len(left):])
	n.conns = left
	if n.stopped && !n.over && n.empty() {
		n.over = true
		close(n.done)
		return true
	}
	return false
}

// refuse answers what came to a closed descriptor with a reset. mu is held.
func (c *Conn) refuse() {
	c.in.ready = nil
	if !c.refused {
		c.refused = true
		c.out.ended = false
		c.out.put(segment{rst: true}, c.n.takes(c.traits))
	}
}

// empty tells whether a network that stops has nothing left. mu is held.
func (n *Net) empty() bool {
	for _, c := range n.conns {
		if !c.closed && !c.detached {
			return false
		}
	}
	for _, l := range n.loops {
		if l.busy || l.standing != nil {
			return false
		}
	}
	return true
}

// Next is when the next piece arrives; false: none is on its way.
func (n *Net) Next() (at time.Time, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sooner := func(t time.Time, some bool) {
		if some && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	for _, c := range n.conns {
		sooner(c.in.next())
		sooner(c.out.next())
		sooner(c.syn, !c.dialed && !c.closed && c.syn.After(time.Now()))
	}
	return at, ok
}

func (c *Conn) open() bool { return c.dialed && c.sink != nil && !c.ending && !c.closed }

func (c *Conn) canAccept() bool {
	return !c.dialed && !c.closed && !c.n.deaf && !c.in.silent && !c.syn.After(time.Now())
}

func (c *Conn) canRead() bool { return c.open() && !c.paused && len(c.in.ready) > 0 }

// mustEnd tells whether the loop sees the connection's end now. A paused one hears of a
// reset, and of a FIN only if it has sent its own.
func (c *Conn) mustEnd() bool {
	return c.open() && (c.in.rst || c.in.fin && (len(c.in.ready) == 0 && !c.paused || c.paused && c.finSent))
}

// Steps adds to list what can happen now.
func (n *Net) Steps(list []Step) []Step {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.loops {
		if l.asked && l.free() {
			list = append(list, Step{Kind: Turn, Loop: l, StandIn: l.away})
		}
	}
	for _, c := range n.conns {
		if c.watched && !c.closed && (c.out.bytes < c.traits.SendBuffer || c.in.rst) {
			list = append(list, Step{Kind: Writable, Conn: c})
		}
		l := c.l
		if !l.free() {
			continue
		}
		kind, some := Turn, true
		switch {
		case l.away && l.held == c:
			kind, some = HangUp, c.open() && !c.told && (c.in.rst || c.in.fin)
		case n.stopped && !c.closed && !c.detached && !c.ending:
			kind = Shut
		case c.canAccept():
			kind = Accept
		case c.canRead() && !c.in.rst:
			kind = Read
		case c.mustEnd():
			kind = End
		default:
			x, ok := c.sink.(*refused)
			kind, some = Expire, ok && x.due && c.open()
		}
		if some {
			list = append(list, Step{Kind: kind, Loop: l, StandIn: l.away, Conn: c})
		}
	}
	return list
}

// Busy tells whether a loop's goroutine is inside a step.
func (n *Net) Busy() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.loops {
		if l.busy {
			return true
		}
	}
	return false
}

// free tells whether somebody can do the loop's next step. mu is held.
func (l *Loop) free() bool { return l.standing == nil && (l.away || !l.busy) }
