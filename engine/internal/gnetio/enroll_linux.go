package gnetio

import (
	"context"
	"net"
	"time"

	gneterr "github.com/panjf2000/gnet/v2/pkg/errors"
)

// enroll gives a connection, which it takes over, to the loop; done is closed once gnet has
// taken it or not. Any goroutine.
func (l *loop) enroll(ctx context.Context, conn net.Conn) (done <-chan struct{}, err error) {
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
		case <-result:
		case <-l.r.ended:
		}
	}()
	return taken, nil
}

// awaitEnrolled waits until gnet has what enroll gave it: of what waits for a loop that has
// ended, a goroutine of gnet's and two descriptors would stay. A loop may be held up, so it
// does not wait for ever.
func (n *Network) awaitEnrolled() {
	all := make(chan struct{})
	go func() { n.enrolling.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(probeTime):
	}
}
