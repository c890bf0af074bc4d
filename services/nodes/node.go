package nodes

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/internal/seldom"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// Node is this process as a node of a cluster. Create it with New, set its server with Attach, then
// call Start. Its methods may be called from any goroutine.
type Node struct {
	cfg     Config
	process uint64
	cache   *cluster.Cache // nil: alone
	bus     *cluster.Bus   // nil: alone

	srv  atomic.Pointer[engine.Server]
	pool atomic.Pointer[engine.Pool]

	life  sync.Mutex // Start and Stop
	run   context.Context
	end   context.CancelFunc // guarded by life; nil while stopped
	bg    sync.WaitGroup
	again chan struct{} // wakes the membership goroutine
	anew  atomic.Bool   // the bus has reconnected, and the others must be notified

	in, asked atomic.Pointer[cluster.Inbox] // made by Start

	mu     sync.Mutex
	token  uint64                     // guarded by mu; 0: no member
	state  State                      // guarded by mu
	beats  map[uint64]beat            // guarded by mu; by process
	peers  recents[uint64, *outbound] // guarded by mu; streams to other processes
	all    outbound
	casts  crossing // of broadcasts with sessions that come and go
	heard  inbound  // of broadcasts
	direct inbound  // to this node

	heardBeats atomic.Uint64        // heartbeats of others received
	heardUp    atomic.Int64         // when the last one of a node that did not drain came, in nanoseconds since 1970; 0: none has
	viewed     atomic.Pointer[view] // the most recent one

	groups groups
	users  users
	calls  calls
	homes  homes
	moves  moves

	counts counts

	joining seldom.Outage // while this node can't join

	gapLine, shedLine, unfitLine, largeLine, panicLine seldom.Line // limits log lines
}

// counts are the counters of Stats.
type counts struct{ joins, beats, bad, gaps, missed, doubled, shed, unfit, unsent, lostName atomic.Uint64 }

var _ services.Service = (*Node)(nil)

// New checks the settings; it does not communicate.
func New(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, cache: cfg.Cache, process: rand.Uint64(), state: Up, again: make(chan struct{}, 1),
		beats: map[uint64]beat{}, direct: inbound{whole: true}}
	n.joining.Lost = func(tries int, err error, away time.Duration, _ bool) {
		n.cfg.Logger.Warn("nodes: can't join the cluster", "node", n.cfg.Name, "for", away.Round(time.Millisecond), "attempts", tries, "err", err, "again", n.cache.Lease()/3)
	}
	n.joining.Back = func(away time.Duration, _ error) {
		n.cfg.Logger.Info("nodes: joined", "node", n.cfg.Name, "after", away.Round(time.Millisecond))
	}
	n.groups.init(n)
	n.users.init(n)
	n.calls.init(n)
	n.moves.init(n)
	if n.cache == nil {
		return n, nil
	}
	b, err := hex.DecodeString(n.cache.Process())
	if err != nil || len(b) != 8 {
		return nil, fmt.Errorf("nodes: a process is named %q", n.cache.Process())
	}
	n.process = binary.BigEndian.Uint64(b)
	n.bus, err = n.cache.NewBus(cluster.BusConfig{MaxOutbound: cfg.MaxOutbound, MaxAsks: cfg.MaxAsks, OnUp: n.reached, OnSlow: n.slow})
	return n, err
}

// Attach sets the server whose sessions belong to the node, and the pool that rooms run on; nil:
// the server's pool. It must be called before Start.
func (n *Node) Attach(srv *engine.Server, pool *engine.Pool) {
	if pool == nil && srv != nil {
		pool = srv.Pool()
	}
	n.srv.Store(srv)
	if srv != nil && n.bus != nil {
		srv.SetOtherServers(&n.moves)
	}
	n.pool.Store(pool)
}

func (n *Node) server() *engine.Server { return n.srv.Load() }

// session returns an open session of this node, or nil.
func (n *Node) session(id engine.ID) *engine.Session {
	if srv := n.server(); srv != nil {
		return srv.Session(id)
	}
	return nil
}

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Name }

// Start joins the cluster. It returns cluster.ErrName if another living node has the name. If the
// cache's servers are unavailable it returns nil, and the node joins when they are reachable; if
// the name turns out to be taken, that is logged and retried.
func (n *Node) Start(ctx context.Context) error {
	n.life.Lock()
	defer n.life.Unlock()
	if n.end != nil {
		return errors.New("nodes: the node has been started before")
	}
	n.run, n.end = context.WithCancel(context.Background())
	n.mu.Lock()
	n.state = Up
	n.mu.Unlock()
	n.users.start()
	n.calls.start(n.run)
	n.bg.Go(n.groups.sweeper)
	err := n.homes.start()
	if n.bus == nil && err == nil {
		return nil
	}
	if err == nil {
		start, cancel := context.WithCancel(ctx)
		if !n.cache.Running() {
			cancel() // its servers are unavailable: there is nothing to wait for
		}
		err = n.bus.Start(start)
		cancel()
	}
	if err == nil {
		err = n.listen()
	}
	if err == nil && n.cache.Running() {
		_ = n.bus.Flush(ctx) // the subscriptions must be active before others know this node
		err = n.join(ctx, n.cfg.NameWait)
		if err != nil && !errors.Is(err, cluster.ErrName) && ctx.Err() == nil {
			n.joining.Fail(err)
			err = nil
		}
	}
	if err != nil {
		_ = n.leave(context.WithoutCancel(ctx)) // if this fails, the lease ends it
		return fmt.Errorf("nodes: start %s: %w", n.cfg.Name, err)
	}
	n.bg.Go(n.membership)
	n.bg.Go(n.watch)
	n.bg.Go(n.moves.sweeper)
	n.greet(ctx)
	return nil
}

// listen makes the inboxes, and the permanent subscriptions of this node.
func (n *Node) listen() error {
	in, asked := n.bus.Inbox(n.cfg.MaxInbound, n.deliver), n.bus.Inbox(n.cfg.MaxInbound, n.serve)
	_, err := in.Subscribe(nodeSubject(n.process), "")
	if err == nil {
		_, err = in.Subscribe(subjectAll, "")
	}
	if err == nil {
		_, err = asked.Subscribe(askSubject(n.process), "")
	}
	n.in.Store(in)
	n.asked.Store(asked)
	return errors.Join(err, n.calls.listen())
}

// Stop leaves the cluster. New calls of other nodes are refused, so that they can run elsewhere,
// and running ones are waited for; then rooms end, users are unbound, and the name is released at
// once, if the servers can be reached. The contexts of calls end when a quarter of ctx's time is
// left; calls that still run at its end are reported as an error, as nobody gets their answers.
// Call Drain and stop the server before. Stop may be called twice, and before Start.
func (n *Node) Stop(ctx context.Context) error {
	n.life.Lock()
	defer n.life.Unlock()
	if n.end == nil {
		return nil
	}
	if err := n.leave(ctx); err != nil {
		return fmt.Errorf("nodes: stop %s: %w", n.cfg.Name, err)
	}
	return nil
}

func (n *Node) leave(ctx context.Context) error {
	n.mu.Lock()
	n.state = Draining
	n.mu.Unlock()
	n.calls.announce() // before any call is refused, so that its caller may try any other node
	n.calls.stopping.Store(true)
	token := n.noMember()
	n.beat()
	n.calls.finish(ctx)
	n.moves.settle(ctx)
	err := errors.Join(n.homes.stop(ctx), n.users.stop(ctx), n.calls.stop(ctx))
	n.end()
	n.end = nil
	if n.bus != nil {
		err = errors.Join(err, n.bus.Stop(ctx))
	}
	n.bg.Wait()
	n.joining.End()
	n.calls.forget()
	n.groups.stop()
	if last := n.noMember(); last != 0 { // it was joining
		token = last
	}
	if token != 0 {
		err = errors.Join(err, n.cache.Leave(ctx, n.cfg.Name, token))
	}
	return err
}

// noMember ends the membership, and returns the token of the name; 0: it was no member.
func (n *Node) noMember() (token uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	token, n.token = n.token, 0
	return token
}

// Running reports whether the node is started and, if it has a Cache, a member of the cluster.
func (n *Node) Running() bool {
	if n.bus == nil {
		n.life.Lock()
		defer n.life.Unlock()
		return n.end != nil
	}
	return n.member()
}

// member reports whether the node holds its name.
func (n *Node) member() bool {
	n.mu.Lock()
	token := n.token
	n.mu.Unlock()
	return token != 0 && n.cache.Joined(n.cfg.Name, token)
}

// seal encodes e with this process as the sender.
func (n *Node) seal(e envelope.Envelope) ([]byte, error) {
	e.Source = n.process
	return e.Append(make([]byte, 0, envelope.HeaderLen+len(e.Key)+len(e.Body)))
}

// buffers are for messages that the sending call copies before it returns.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// mostKept is the largest buffer that is pooled, in bytes.
const mostKept = 64 << 10

func keep(b *[]byte) {
	if cap(*b) <= mostKept {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// to returns the stream to another process.
func (n *Node) to(process uint64) *outbound {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.peers.recent[process]
	if o == nil {
		if o, _ = n.peers.of(process); o == nil {
			o = &outbound{}
		}
		n.peers.set(process, o, n.living)
	}
	return o
}

// lose counts a message that could not be sent, if its sender gets no error. One that the servers would
// never take is logged.
func (n *Node) lose(err error) {
	if err == nil {
		return
	}
	n.counts.unsent.Add(1)
	if !errors.Is(err, cluster.ErrTooLarge) {
		return
	}
	if held, ok := n.largeLine.Due(); ok {
		n.cfg.Logger.Warn("nodes: message to other nodes dropped: it is larger than the servers' max_payload", "max_payload", n.bus.MaxMessage(), "omitted", held)
	}
}

// bounded returns ctx limited to Config.Timeout.
func (n *Node) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, n.cfg.Timeout)
}

// Stats is a snapshot of a Node. Counters only increase.
type Stats struct {
	Members int // living nodes, this one included
	Groups  int // known here
	Users   int // bound to sessions here
	Rooms   int // with their home here
	Inbound int // queued messages from others
	Calls   int // running here
	Moved   int // sessions that other nodes have taken over, and that are remembered

	Joins      uint64 // how often it has become a member
	Lost       uint64 // how often it has lost its name
	Beats      uint64 // heartbeats of others
	Bad        uint64 // messages that are malformed or impossible
	Gaps       uint64 // calls of OnGap
	Missed     uint64 // messages, in all gaps
	Doubled    uint64 // messages received twice, or too late
	Shed       uint64 // messages dropped after Patience
	Unfit      uint64 // frames of others that no frame of this node holds, because of its MaxFrame for example
	Unsent     uint64 // messages that could not be sent, without an error to a caller
	Overloaded uint64 // calls refused because of MaxCalls
	Replaced   uint64 // sessions that lost their user
	Taken      uint64 // sessions taken over from other nodes
	Given      uint64 // sessions that other nodes have taken over
	Forgotten  uint64 // of these, those forgotten before their time because of MaxMoved
	NotTaken   map[NotTaken]uint64
	Bus        cluster.BusStats
}

// Stats returns a snapshot.
func (n *Node) Stats() Stats {
	c := &n.counts
	st := Stats{
		Members: len(n.List()), Groups: n.groups.len(), Users: n.users.len(), Rooms: n.homes.len(), Calls: int(n.calls.running.Load()),
		Joins: c.joins.Load(), Lost: c.lostName.Load(), Beats: c.beats.Load(), Bad: c.bad.Load(), Gaps: c.gaps.Load(), Missed: c.missed.Load(),
		Doubled: c.doubled.Load(), Shed: c.shed.Load(), Unfit: c.unfit.Load(), Unsent: c.unsent.Load(), Overloaded: n.calls.refused.Load(), Replaced: n.users.replaced.Load(),
	}
	n.moves.addTo(&st)
	if n.bus != nil {
		st.Bus = n.bus.Stats()
		if in, asked := n.in.Load(), n.asked.Load(); in != nil && asked != nil {
			st.Inbound = in.Len() + asked.Len()
		}
	}
	return st
}

// sleep waits for d; it returns false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
