package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"millrace/engine/internal/door"
	"millrace/engine/internal/machine"
	"millrace/engine/internal/netio"
)

// Hooks are what a Net asks of whoever drives it.
type Hooks struct {
	// Choose returns a number from 0 to n-1; 0 is the plainest way to go on.
	Choose func(n int) int
	// Chance tells whether something happens that does so once in n times. Never where
	// faults are off.
	Chance func(n int) bool
	// Wake is called when there is something to do, on any goroutine. It must not block.
	Wake func()
	// Note is shown what has happened.
	Note func(Event)
	// Files is how many descriptors may be open.
	Files func() int
}

// Event is something that has happened.
type Event struct {
	What string
	Conn int // 0: of none
	Loop int
	N    int
	B    []byte // valid until Note returns
}

// Traits are how a connection's path is.
type Traits struct {
	Latency    time.Duration // of each direction
	Jitter     time.Duration // added to it by chance
	SendBuffer int           // bytes that the server's kernel takes and the peer has not
	RecvBuffer int           // bytes that each kernel holds for reading
	Rate       int           // bytes a second that it carries, each way; 0: any number
}

// Net is the network of one server.
type Net struct {
	cfg   machine.Network
	host  netio.Host
	hooks Hooks

	mu      sync.Mutex
	loops   []*Loop        // written under mu, by Start
	addrs   []*net.TCPAddr // the same
	conns   []*Conn        // guarded by mu; in the order of their dials
	dials   int            // guarded by mu
	files   []bool         // guarded by mu; descriptors in use
	deaf    bool           // guarded by mu; nothing is accepted until the next Guard
	stopped bool           // guarded by mu
	over    bool           // guarded by mu; done is closed
	done    chan struct{}
}

var _ door.Below = (*Net)(nil)

// New makes a network of a server's.
func New(cfg machine.Network, h netio.Host, hooks Hooks) *Net {
	return &Net{cfg: cfg, host: h, hooks: hooks, done: make(chan struct{})}
}

// serverIP is where every server is.
var serverIP = netip.AddrFrom4([4]byte{10, 0, 0, 1})

// Start makes the loops and their addresses.
func (n *Net) Start(context.Context) error {
	var addrs []*net.TCPAddr
	var loops []*Loop
	for i, s := range n.cfg.Addrs {
		_, host, ok := strings.Cut(s, "://")
		if !ok || !strings.HasPrefix(s, "tcp") {
			return fmt.Errorf("%w in a simulation: %s: only tcp:// and what stands on it", errors.ErrUnsupported, s)
		}
		at, err := netip.ParseAddrPort(host)
		if err != nil || at.Port() == 0 {
			at = netip.AddrPortFrom(serverIP, uint16(7000+i))
		}
		addrs = append(addrs, net.TCPAddrFromAddrPort(netip.AddrPortFrom(serverIP, at.Port())))
	}
	for i := range n.cfg.Loops {
		l := &Loop{n: n, index: i}
		l.turner = n.host.NewLoop(l)
		loops = append(loops, l)
	}
	n.mu.Lock()
	n.addrs, n.loops = addrs, loops
	n.mu.Unlock()
	return nil
}

// Addrs are the addresses that are listened on.
func (n *Net) Addrs() (list []net.Addr) {
	for _, a := range n.addrs {
		list = append(list, a)
	}
	return list
}

// Listener is which of the addresses a is.
func (n *Net) Listener(a net.Addr) int {
	for i, x := range n.addrs {
		if t, ok := a.(*net.TCPAddr); ok && t.Port == x.Port {
			return i
		}
	}
	return -1
}

// Guard goes on accepting, and has refused connections closed that have had their time.
func (n *Net) Guard() {
	n.mu.Lock()
	n.deaf = false
	for _, c := range n.conns {
		if x, ok := c.sink.(*refused); ok && !c.closed && time.Since(x.since) > n.cfg.Linger {
			x.due = true
		}
	}
	n.mu.Unlock()
	n.hooks.Wake()
}

// Stop has every connection closed, on its loop, and waits for that.
func (n *Net) Stop(ctx context.Context) error {
	n.mu.Lock()
	n.stopped = true
	n.mu.Unlock()
	n.hooks.Wake()
	select {
	case <-n.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a callback blocks a loop: %w", ctx.Err())
	}
}

// Dial begins a connection to the i-th address, which arrives on some loop.
func (n *Net) Dial(i int, t Traits) *Conn {
	loop := n.loops[n.hooks.Choose(len(n.loops))]
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	c := &Conn{n: n, l: loop, id: n.dials, traits: t, local: n.addrs[i], fd: -1}
	c.remote = &net.TCPAddr{IP: net.IPv4(10, 1, byte(n.dials>>8), byte(n.dials)), Port: 40000 + n.dials%20000}
	c.in.room, c.out.room = t.RecvBuffer, t.RecvBuffer
	c.in.rate, c.out.rate = t.Rate, t.Rate
	c.syn = time.Now().Add(n.takes(t))
	if n.over {
		c.out.rst, c.closed, c.dialed = true, true, true
		return c
	}
	n.conns = append(n.conns, c)
	return c
}

// takes is how long a segment is on its way.
func (n *Net) takes(t Traits) time.Duration {
	return t.Latency + time.Duration(n.hooks.Choose(8))*t.Jitter/8
}

// firstFile is the first descriptor that is free: a process has some open by itself.
const firstFile = 8

// open gives out the lowest free descriptor; false: there is none. mu is held.
func (n *Net) open() (fd int, ok bool) {
	for fd = range n.files {
		if !n.files[fd] {
			n.files[fd] = true
			return fd + firstFile, true
		}
	}
	if len(n.files)+firstFile >= n.hooks.Files() {
		return -1, false
	}
	n.files = append(n.files, true)
	return len(n.files) - 1 + firstFile, true
}

// free takes a descriptor back. mu is held.
func (n *Net) free(fd int) {
	if fd >= 0 {
		n.files[fd-firstFile] = false
	}
}

// Open is how many descriptors are in use.
func (n *Net) Open() (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, used := range n.files {
		if used {
			count++
		}
	}
	return count
}

// Loops are the network's loops.
func (n *Net) Loops() []*Loop { return n.loops }
