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
	pausable atomic.Bool         // reading can be paused: gnet's epoll sets were found and obey
	names    map[string]net.Addr // the unix addresses behind what gnet was told to bind; set before gnet starts

	mu            sync.Mutex
	started       bool          // guarded by mu
	stopped       bool          // guarded by mu; quit is closed
	reactors      []*reactor    // guarded by mu; one for TCP, one for unix sockets
	claims        []*claim      // guarded by mu
	addrs         []net.Addr    // guarded by mu
	begun         chan struct{} // closed when Start has done what it does, but undo it
	quit          chan struct{}
	reserveMu     sync.Mutex
	reserve       *reserve      // guarded by reserveMu; nil until it is needed
	reserveFailed bool          // guarded by reserveMu; it can't be had, or no more
	done          chan struct{} // closed when everything that Stop ends has ended
	failOnce      sync.Once
	bg            sync.WaitGroup // the supervisors
	enrolling     sync.WaitGroup // what gnet has not taken yet; nothing is added once stopped
}

// New makes a Network; Start starts it.
func New(cfg Config, host netio.Host) *Network {
	n := &Network{cfg: cfg, host: host, begun: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
	n.pausable.Store(true)
	n.watcher.epfd = -1
	return n
}

// Start binds the addresses and starts the loops. When it returns nil, connections are
// served. It starts once. When ctx ends before that, its error is returned; after any
// error nothing is left running. An address that can't be is an *AddrError, one that
// can't be now a *ListenError, several are joined.
func (n *Network) Start(ctx context.Context) error {
	n.mu.Lock()
	again := n.started || n.stopped
	n.started = true
	n.mu.Unlock()
	if again {
		return errors.New("the network has been started before")
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

// ready notes the addresses and finds the listeners that one goroutine accepts from.
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

// whyNot finds the address that gnet could not listen on, which its error hides.
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

// Addrs are the addresses that are listened on, in Config's order, with the ports that
// were bound.
func (n *Network) Addrs() []net.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]net.Addr(nil), n.addrs...)
}

// Listener is which of Config.Addrs a connection came to whose local address is a; below 0:
// it can't be told. Any goroutine, from the first connection on.
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

// Pausable tells whether Conn.PauseReading works. Any goroutine.
func (n *Network) Pausable() bool { return n.pausable.Load() }

func (n *Network) running() []*reactor {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reactors
}

// fail tells the Host, once, that the loops have ended.
func (n *Network) fail(err error) {
	n.failOnce.Do(func() { n.host.Failed(err) })
}

// Stop ends the loops and closes every connection, which its Sink is told; only those
// detached stay open. It returns when all goroutines have ended, or with ctx's error
// when a loop is held up in a callback: then the loop ends when that returns, and what it
// needs stays until then. It may be called many times, by anyone. No Sink is called
// behind a return of nil. StandIns are to be given back first.
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
		return fmt.Errorf("a loop is held up in a callback: %w", ctx.Err())
	}
}

// wind ends everything, however long that takes.
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
