package gnetio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"
)

// probe tests with a socket pair that a loop's epoll set was found, and that masking a connection
// in it delays its input.
type probe struct {
	l      *loop
	c      gnet.Conn
	peer   net.Conn
	masked bool
	opened chan struct{}
	heard  chan struct{} // closed when OnTraffic was called
}

func (p *probe) open(l *loop, c gnet.Conn) {
	p.l, p.c = l, c
	p.masked = l.mask(c.Fd(), true)
	close(p.opened)
}

func (p *probe) hear() { close(p.heard) }

// probeTime is how long all probes of a start together may take, and how long some other waits
// for gnet last at most.
const probeTime = 5 * time.Second

// probeLoops registers a connection with every loop of a reactor, so that each has a loop value
// before the first client connects, and tests whether reading can be paused.
//
// With a single acceptor and RoundRobin, gnet chooses a loop without a lock, and a probe would
// race with the first clients: there a loop value is made when the first connection opens.
func (r *reactor) probeLoops(ctx context.Context) error {
	if r.single && r.n.cfg.Balance == RoundRobin {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var probes []*probe
	defer func() {
		for _, p := range probes {
			_ = p.peer.Close()
		}
	}()
	for range r.n.cfg.Loops {
		p, err := newProbe(r.enroll)
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		probes = append(probes, p)
	}
	for _, p := range probes {
		select {
		case <-p.opened:
			_, _ = p.peer.Write([]byte{0})
		case <-ctx.Done():
			return errors.New("self-test: a loop did not answer within 5 s: the machine may be overloaded")
		}
	}
	select {
	case <-time.After(5 * time.Millisecond): // a byte that gets through the mask would do so in microseconds
	case <-ctx.Done():
	}
	good := true
	for _, p := range probes {
		good = p.check(ctx) && good
	}
	if !good && ctx.Err() == nil {
		r.n.cfg.Logger.Warn("reading can't be paused, as gnet's epoll sets were not found in /proc/self/fdinfo or can't be changed: sessions over their limits are closed instead")
	}
	if !good {
		r.n.pausable.Store(false)
	}
	r.eachLoop(func(l *loop) {
		if l.made == nil {
			return
		}
		select {
		case <-l.made.begun:
		case <-ctx.Done(): // it may begin later
		}
	})
	return nil
}

func (p *probe) check(ctx context.Context) bool {
	select {
	case <-p.heard:
		return false
	default:
	}
	if p.masked {
		_ = p.l.el.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
			p.l.mask(p.c.Fd(), false)
			return nil
		}))
	}
	select {
	case <-p.heard:
		return p.masked
	case <-ctx.Done():
		return false
	}
}

// enroll registers a probe's connection with a loop of the reactor that gnet chooses.
func (r *reactor) enroll(conn net.Conn, p *probe) error {
	_, err := r.eng.Register(gnet.NewContext(gnet.NewNetConnContext(context.Background(), conn), p))
	if err != nil {
		_ = conn.Close()
	}
	return err
}

// newProbe makes a probe and gives its connection to enroll, which owns it, also on an error.
func newProbe(enroll func(net.Conn, *probe) error) (*probe, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "probe"), os.NewFile(uintptr(fds[1]), "probe")
	defer mine.Close()
	defer theirs.Close()
	peer, err := net.FileConn(mine)
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(theirs)
	if err != nil {
		_ = peer.Close()
		return nil, err
	}
	p := &probe{peer: peer, opened: make(chan struct{}), heard: make(chan struct{})}
	if err := enroll(conn, p); err != nil {
		_ = peer.Close()
		return nil, err
	}
	return p, nil
}
