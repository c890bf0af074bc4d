package admin

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// leastWait is how long a connection may always wait for its next request.
const leastWait = 50 * time.Millisecond

// clientLimit is a listener that keeps at most max connections open. For a further one the
// connection that has waited longest for a request is closed; if none waits, it waits itself.
type clientLimit struct {
	net.Listener
	max    int
	count  *atomic.Int64
	freed  chan struct{} // has a value after a place has become free
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	open map[*client]bool // guarded by mu
}

func newClientLimit(ln net.Listener, max int, count *atomic.Int64) *clientLimit {
	return &clientLimit{Listener: ln, max: max, count: count, freed: make(chan struct{}, 1), closed: make(chan struct{}), open: map[*client]bool{}}
}

func (l *clientLimit) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn, l: l, since: time.Now()}
	for !l.add(c) {
		select {
		case <-l.freed:
		case <-time.After(leastWait):
		case <-l.closed:
			conn.Close()
			return nil, net.ErrClosed
		}
	}
	return c, nil
}

// add gives c a place, which it may take from another.
func (l *clientLimit) add(c *client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.max {
		longest := l.longest()
		if longest == nil {
			return false
		}
		l.remove(longest)
		longest.Conn.Close()
	}
	l.open[c] = true
	l.count.Store(int64(len(l.open)))
	return true
}

// longest returns the connection that has waited longest for a request, nil if none has waited for
// leastWait. The caller holds mu.
func (l *clientLimit) longest() (found *client) {
	before := time.Now().Add(-leastWait)
	for c := range l.open {
		if c.reading && !c.busy && c.since.Before(before) {
			found, before = c, c.since
		}
	}
	return found
}

// remove makes a place free. The caller holds mu.
func (l *clientLimit) remove(c *client) {
	delete(l.open, c)
	l.count.Store(int64(len(l.open)))
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

func (l *clientLimit) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// client is one connection.
type client struct {
	net.Conn
	l *clientLimit

	// Guarded by l.mu.
	reading bool      // in Read
	busy    bool      // a request is being served
	since   time.Time // since when it is not busy
}

func (c *client) Read(b []byte) (int, error) {
	c.set(func() { c.reading = true })
	n, err := c.Conn.Read(b)
	c.set(func() { c.reading = false })
	return n, err
}

func (c *client) Close() error {
	c.set(func() { c.l.remove(c) })
	return c.Conn.Close()
}

func (c *client) set(change func()) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	change()
}

// clientKey is the context's key of a request's connection.
type clientKey struct{}

func withClient(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// serving notes that a request is served until done is called.
func serving(r *http.Request) (done func()) {
	c, ok := r.Context().Value(clientKey{}).(*client)
	if !ok {
		return func() {}
	}
	c.set(func() { c.busy = true })
	return func() { c.set(func() { c.busy, c.since = false, time.Now() }) }
}
