package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"millrace/services"
	"millrace/services/nodes/internal/envelope"
)

// State is the state that a node publishes.
type State string

// The states.
const (
	Up       State = "up"
	Draining State = "draining" // it is about to stop: nothing new is sent to it
)

// Member is a living node, as this one sees it.
type Member struct {
	Name     string
	Process  uint64
	Token    uint64 // increases with each process that has the name; 0: this one, while it is no member
	State    State
	Sessions int // as of its last heartbeat
	Addrs    []string
	Self     bool

	handles []uint32
	asks    string // the subject for requests to it
}

func (m Member) serves(handle uint32) bool {
	_, ok := slices.BinarySearch(m.handles, handle)
	return ok
}

// beat is a node's heartbeat, sent three times in a lease. Whether the node lives is decided by the
// lock of its name; the heartbeat carries its state.
type beat struct {
	State    State    `json:"state"`
	Sessions int      `json:"sessions"`
	Addrs    []string `json:"addrs,omitempty"`
	Handles  []uint32 `json:"handles,omitempty"` // of calls, ascending
}

const (
	subjectAll = "all"
	maxBeat    = 64 << 10
)

func nodeSubject(process uint64) string { return "s." + hexOf(process) }
func askSubject(process uint64) string  { return "n." + hexOf(process) }

// hexOf formats process like cluster.Cache.Process.
func hexOf(process uint64) string {
	s := strconv.FormatUint(process, 16)
	return "0000000000000000"[len(s):] + s
}

// self returns this node as a Member.
func (n *Node) self() Member {
	m := Member{Name: n.cfg.Name, Process: n.process, Addrs: n.cfg.Addrs, Self: true, handles: n.calls.handles()}
	if srv := n.server(); srv != nil {
		m.Sessions = srv.Conns()
	}
	n.mu.Lock()
	token := n.token
	n.mu.Unlock()
	m.State = n.stateNow()
	if token != 0 && n.cache.Joined(n.cfg.Name, token) {
		m.Token = token
	}
	return m
}

// stateNow returns the state set by SetState, or Draining if the server drains.
func (n *Node) stateNow() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	if srv := n.server(); srv != nil && srv.Draining() {
		return Draining
	}
	return n.state
}

func (n *Node) draining() bool { return n.stateNow() == Draining }

// place chooses one of the nodes for a key by rendezvous hashing: of n nodes, one that joins or
// leaves moves 1/n of the keys (the highest random weight of D. Thaler and C. Ravishankar, 1998).
func place(key string, among []Member) (Member, bool) {
	var best Member
	top := uint64(0)
	for i, m := range among {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key))
		_, _ = h.Write([]byte{0})
		_, _ = h.Write([]byte(m.Name))
		if w := mix(h.Sum64()); i == 0 || w > top || w == top && m.Name < best.Name {
			best, top = m, w
		}
	}
	return best, len(among) > 0
}

// mix spreads values that differ in few bits (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// SetState publishes this node's state to the others, for example before it drains. They receive it
// asynchronously.
func (n *Node) SetState(s State) {
	n.mu.Lock()
	n.state = s
	n.mu.Unlock()
	n.calls.announce()
	n.beat()
}

// Drain announces that this node is about to stop, and moves its rooms: those with Save keep their
// state. It returns when they have moved, or when ctx ends. SetState(Up) cancels it.
func (n *Node) Drain(ctx context.Context) {
	n.SetState(Draining)
	n.homes.move(ctx)
}

// join acquires the name.
func (n *Node) join(ctx context.Context, wait time.Duration) error {
	const gone = ^uint64(0)
	var got atomic.Uint64 // the token; gone: it was lost before it was stored
	token, err := n.cache.Join(ctx, n.cfg.Name, wait, func() {
		if was := got.Swap(gone); was != 0 {
			n.lost(was)
		}
	})
	switch {
	case err != nil:
		return err
	case !got.CompareAndSwap(0, token):
		return fmt.Errorf("%w: the lease has ended", services.ErrCacheDown)
	}
	n.mu.Lock()
	if got.Load() == token {
		n.token = token
	}
	n.mu.Unlock()
	n.counts.joins.Add(1)
	return nil
}

// lost is called when the name, held with that token, has been lost.
func (n *Node) lost(token uint64) {
	n.mu.Lock()
	was := n.token == token
	if was {
		n.token = 0
	}
	n.mu.Unlock()
	if !was {
		return // it was released
	}
	n.counts.lostName.Add(1)
	n.groups.doubt()
	n.cfg.Logger.Warn("nodes: left the cluster: the lease has ended", "node", n.cfg.Name)
	n.hurry()
}

// reached: the bus is connected, again or for the first time.
func (n *Node) reached() {
	n.groups.doubt()
	n.anew.Store(true)
	n.hurry()
	n.users.recheck()
}

func (n *Node) hurry() {
	select {
	case n.again <- struct{}{}:
	default:
	}
}

// membership is the goroutine that sends heartbeats, and joins again after the name was lost.
func (n *Node) membership() {
	t := time.NewTicker(n.cache.Lease() / 3)
	defer t.Stop()
	state := Up
	for {
		select {
		case <-n.run.Done():
			return
		case <-n.again:
		case <-t.C:
		}
		if n.anew.Swap(false) {
			n.greet(n.run)
			n.groups.tellAll(n.run)
		}
		if !n.member() && n.reachesOthers() && !n.calls.stopping.Load() {
			// The others may have deleted this node's counts because they considered it dead: they
			// must have them before it is a member again.
			n.groups.tellAll(n.run)
			_ = n.bus.Flush(n.run) // it fails only if the servers are unavailable, and then so is the name
			switch err := n.join(n.run, n.cache.Lease()); {
			case err == nil:
				if n.joining.Down() {
					n.joining.Fine()
				} else {
					n.cfg.Logger.Info("nodes: joined", "node", n.cfg.Name)
				}
				n.greet(n.run)
				n.users.recheck()
			case n.run.Err() == nil:
				n.joining.Fail(err)
			}
		}
		if now := n.stateNow(); now != state {
			state = now
			n.calls.announce()
			if now == Draining && !n.calls.stopping.Load() { // otherwise they end
				n.bg.Go(func() { n.homes.move(n.run) })
			}
		}
		n.beat()
	}
}

// beat sends a heartbeat.
func (n *Node) beat() {
	if n.bus == nil || !n.bus.Up() {
		return
	}
	n.all.mu.Lock() // so that the stream's number in it is right at its place in the stream
	defer n.all.mu.Unlock()
	if b, err := n.alive(); err == nil {
		n.lose(n.bus.Publish(subjectAll, b))
	}
}

// alive encodes a heartbeat. Caller holds n.all.mu.
func (n *Node) alive() ([]byte, error) {
	self := n.self()
	body, err := json.Marshal(beat{State: self.State, Sessions: self.Sessions, Addrs: self.Addrs, Handles: self.handles})
	if err != nil {
		return nil, err
	}
	return n.seal(envelope.Envelope{Kind: envelope.Alive, Epoch: n.all.last, Body: body})
}

// greet requests the states of the other nodes.
func (n *Node) greet(ctx context.Context) {
	others := n.others()
	if len(others) == 0 {
		return
	}
	n.all.mu.Lock()
	b, err := n.alive()
	n.all.mu.Unlock()
	if err != nil {
		return
	}
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	// Those that don't answer in time are known by their next heartbeat.
	_ = n.bus.AskMany(ctx, subjectAll, b, len(others), func(got []byte) {
		if e, err := envelope.Parse(got); err == nil && e.Kind == envelope.Alive {
			n.hear(e)
		}
	})
}

// hear processes a heartbeat.
func (n *Node) hear(e envelope.Envelope) {
	var b beat
	if len(e.Body) > maxBeat || json.Unmarshal(e.Body, &b) != nil || !areAddrs(b.Addrs) || len(b.Handles) > maxHandles ||
		b.Sessions < 0 || b.State != Up && b.State != Draining || !slices.IsSorted(b.Handles) {
		n.counts.bad.Add(1)
		return
	}
	if b.State == Up {
		n.heardUp.Store(time.Now().UnixNano())
	}
	n.counts.beats.Add(1)
	living := n.living()
	n.mu.Lock()
	defer n.mu.Unlock()
	most := 2*len(living) + 16
	if len(n.beats) > most {
		maps.DeleteFunc(n.beats, func(p uint64, _ beat) bool { return !living[p] })
	}
	if len(n.beats) <= most {
		n.beats[e.Source] = b
		n.heardBeats.Add(1)
	}
}

// known returns the name of the node of a process, for logs.
func (n *Node) known(process uint64) string {
	m, _ := n.byProcess(process)
	return m.Name
}

// slow: messages were dropped because the inbox was full. Their content is unknown.
func (n *Node) slow() {
	n.groups.doubt()
	n.users.recheck()
}
