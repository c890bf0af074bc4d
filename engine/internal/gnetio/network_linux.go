package gnetio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"millrace/engine/internal/netio"
)

// Network listens on addresses and brings their connections to a Host.
type Network struct {
	cfg      Config
	host     netio.Host
	watcher  watcher
	ears     ears
	pausable atomic.Bool         // reading can be paused: gnet's epoll sets were found, and masking an event works
	names    map[string]net.Addr // Config's unix addresses by the path that gnet binds; set before gnet starts

	mu            sync.Mutex
	started       bool          // guarded by mu
	stopped       bool          // guarded by mu; quit is closed
	reactors      []*reactor    // guarded by mu; one for TCP, one for unix sockets
	claims        []*claim      // guarded by mu
	addrs         []net.Addr    // guarded by mu
	begun         chan struct{} // closed when Start's work is done, before it undoes a failed start
	quit          chan struct{} // closed by the first Stop
	reserveMu     sync.Mutex
	reserve       *reserve      // guarded by reserveMu; nil until it is needed
	reserveFailed bool          // guarded by reserveMu; it could not be started, or the network stops
	done          chan struct{} // closed when everything that Stop ends has ended
	failOnce      sync.Once
	bg            sync.WaitGroup // the supervisors
	enrolling     sync.WaitGroup // connections that gnet has not registered yet; nothing is added once stopped
}

// New makes a Network; Start starts it.
func New(cfg Config, host netio.Host) *Network {
	n := &Network{cfg: cfg, host: host, begun: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
	n.pausable.Store(true)
	n.watcher.epfd = -1
	return n
}

// Start binds the addresses and starts the loops. When it returns nil, connections are
// served. A Network is started once. If ctx ends first, its error is returned; after any
// error nothing is left running. Errors of addresses are *AddrError and *ListenError,
// joined if there are several.
func (n *Network) Start(ctx context.Context) error {
	n.mu.Lock()
	again := n.started || n.stopped
	n.started = true
	n.mu.Unlock()
	if again {
		return errors.New("the network was started or stopped before: make a new one")
	}
	n.checkGnet()
	err := n.start(ctx)
	close(n.begun)
	n.mu.Lock()
	stopped := n.stopped
	n.mu.Unlock()
	switch {
	case err != nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case stopped:
		err = errors.New("stopped while it started")
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("start: %w", ctx.Err())
		}
		end, cancel := context.WithTimeout(context.Background(), probeTime)
		defer cancel()
		_ = n.Stop(end)
	}
	return err
}

func (n *Network) start(ctx context.Context) error {
	claims, err := n.claim(ctx)
	n.mu.Lock()
	n.claims = claims
	n.mu.Unlock()
	defer func() {
		for _, c := range claims {
			c.letGo()
		}
	}()
	if err != nil {
		return err
	}
	if err := n.watcher.start(n.host.Writable); err != nil {
		return err
	}
	var tcp, unix []*claim
	for _, c := range claims {
		if c.unix() {
			unix = append(unix, c)
		} else {
			tcp = append(tcp, c)
		}
	}
	if n.cfg.Single {
		for _, c := range tcp {
			c.letGo() // gnet binds without SO_REUSEPORT
		}
	}
	if err := n.startReactor(ctx, tcp, n.cfg.Single); err != nil {
		return err
	}
	if err := n.startReactor(ctx, unix, true); err != nil {
		return err
	}
	var errs []error
	for _, c := range unix {
		errs = append(errs, c.publish(n.cfg.UnixMode))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n.ready(claims)
	return nil
}

// ready stores the bound addresses, and finds the listeners of goroutines that only accept.
func (n *Network) ready(claims []*claim) {
	var alone []net.Addr
	n.mu.Lock()
	for _, c := range claims {
		n.addrs = append(n.addrs, c.real)
		if c.unix() || n.cfg.Single {
			alone = append(alone, c.bound)
		}
	}
	n.mu.Unlock()
	if len(alone) > 0 {
		n.discoverAcceptor(alone)
	}
}

func (n *Network) startReactor(ctx context.Context, claims []*claim, single bool) error {
	if len(claims) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r := n.newReactor(single)
	r.unix = claims[0].unix()
	var addrs []string
	for _, c := range claims {
		addrs = append(addrs, c.gnet)
	}
	if err := r.run(addrs); err != nil {
		return whyNot(claims, err)
	}
	n.mu.Lock()
	n.reactors = append(n.reactors, r)
	n.mu.Unlock()
	if err := r.probeLoops(ctx); err != nil {
		return err
	}
	n.bg.Go(r.supervise)
	return nil
}

// whyNot finds out which address gnet could not listen on: gnet's error does not say.
func whyNot(claims []*claim, err error) error {
	names := ""
	for _, c := range claims {
		c.letGo()
		if !c.unix() {
			fd, plug, _, err := listenAlone(c.at)
			if err != nil {
				return &ListenError{c.addr.String(), err}
			}
			c.guard, c.plug = fd, plug
		}
		names += " " + c.addr.String()
	}
	return &ListenError{names[1:], err}
}

// Addrs returns the bound addresses, in Config's order, with the real ports. Any goroutine.
func (n *Network) Addrs() []net.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]net.Addr(nil), n.addrs...)
}

// Listener returns the index in Config.Addrs of the listener that accepted a connection with
// local address a; -1 if that is not known. Any goroutine, from the first connection on.
func (n *Network) Listener(a net.Addr) int {
	n.mu.Lock()
	claims := n.claims
	n.mu.Unlock()
	best := -1
	t, tcp := a.(*net.TCPAddr)
	for i, c := range claims {
		switch {
		case c.unix() && !tcp && c.real.String() == a.String():
			return i
		case c.unix() || !tcp || int(c.at.Port()) != t.Port:
		case c.at.Addr().Unmap().WithZone("") == t.AddrPort().Addr().Unmap().WithZone(""):
			return i
		case !c.at.Addr().IsValid(), c.at.Addr().IsUnspecified() && c.at.Addr().Is4() == (t.IP.To4() != nil):
			best = i
		}
	}
	return best
}

// Pausable reports whether Conn.PauseReading works. Any goroutine.
func (n *Network) Pausable() bool { return n.pausable.Load() }

func (n *Network) running() []*reactor {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reactors
}

// fail reports to the Host, once, that the loops have ended by themselves.
func (n *Network) fail(err error) {
	n.failOnce.Do(func() { n.host.Failed(err) })
}

// Stop ends the loops and closes every connection that is not detached, calling its
// Sink.Closed. It returns nil when all goroutines have ended; after that no Sink is called.
// If ctx ends first, because a callback blocks a loop, it returns ctx's error, and the rest
// is done when the callback returns. It may be called several times, from any goroutine but
// a loop's. All stand-ins must have been given back.
func (n *Network) Stop(ctx context.Context) error {
	n.mu.Lock()
	first := !n.stopped
	n.stopped = true
	if first && !n.started {
		close(n.begun)
	}
	n.mu.Unlock()
	if first {
		close(n.quit)
		go n.wind()
	}
	select {
	case <-n.done:
		return nil
	default:
	}
	select {
	case <-n.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a callback blocks a loop: %w", ctx.Err())
	}
}

// wind does the work of Stop, on a goroutine of its own, however long a loop is blocked.
func (n *Network) wind() {
	defer close(n.done)
	<-n.begun
	n.bg.Wait()
	n.mu.Lock()
	claims, reactors := n.claims, n.reactors
	n.mu.Unlock()
	for _, c := range claims {
		c.unlink() // while it is listened on, so that nobody replaces it meanwhile
	}
	n.endAccept(reactors)
	n.awaitEnrolled()
	for _, r := range reactors {
		r.stop()
	}
	for _, r := range reactors {
		<-r.ended
	}
	n.stopReserve()
	for _, c := range claims {
		c.forget()
	}
	n.watcher.stop()
}
