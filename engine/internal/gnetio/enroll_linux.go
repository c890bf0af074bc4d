package gnetio

import (
	"context"
	"net"
	"time"

	gneterr "github.com/panjf2000/gnet/v2/pkg/errors"
)

// enroll registers a connection with the loop, and owns it from the call on, also if it returns
// an error. done is closed when gnet has registered it or failed to; then failed, if it is not nil, is
// called first. Any goroutine.
func (l *loop) enroll(ctx context.Context, conn net.Conn, failed func(error)) (done <-chan struct{}, err error) {
	n := l.n
	n.mu.Lock()
	stopped := n.stopped
	if !stopped {
		n.enrolling.Add(1)
	}
	n.mu.Unlock()
	if stopped {
		_ = conn.Close()
		return nil, gneterr.ErrEngineInShutdown
	}
	result, err := l.el.Enroll(ctx, conn)
	if err != nil {
		n.enrolling.Done()
		_ = conn.Close()
		return nil, err
	}
	taken := make(chan struct{})
	go func() {
		defer n.enrolling.Done()
		defer close(taken)
		select {
		case x := <-result:
			if x.Err != nil && failed != nil {
				failed(x.Err)
			}
		case <-l.r.ended:
		}
	}()
	return taken, nil
}

// awaitEnrolled waits until gnet has registered all connections given to enroll: one that still
// waits when its loop ends would leak a goroutine of gnet's and two descriptors. As a callback may
// block a loop, it waits for probeTime at most.
func (n *Network) awaitEnrolled() {
	all := make(chan struct{})
	go func() { n.enrolling.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(probeTime):
	}
}
