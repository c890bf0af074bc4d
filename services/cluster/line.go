package cluster

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// line is one connection to the servers. ctx ends when it is lost.
type line struct {
	nth  uint64 // its number, from 1
	ctx  context.Context
	end  context.CancelFunc
	lost atomic.Pointer[time.Time] // when it was; nil: it stands
}

func newLine(nth uint64) *line {
	x := &line{nth: nth}
	x.ctx, x.end = context.WithCancel(context.Background())
	return x
}

func (x *line) lose() {
	now := time.Now()
	x.lost.CompareAndSwap(nil, &now)
	x.end()
}

// lines makes the connections of the client library. It knows which one is used, and whether it
// stands, without asking the library: while that connects, every method of nats.Conn waits, for
// Config.Timeout and more. It is a nats.CustomDialer.
//
// The end of the start's context cuts what is made before begun is called: nats.Connect, which tries each
// server for a while, takes no context.
type lines struct {
	dialer net.Dialer
	before net.Conn // the last one made; used by Dial only

	mu    sync.Mutex
	start context.Context // guarded by mu; of the start, then one without end
	spare func() bool     // guarded by mu; spares the last one made from the end of start

	last  atomic.Pointer[line] // the last one made
	stood atomic.Pointer[line] // the last one that the servers have accepted
}

func newLines(start context.Context, timeout time.Duration) *lines {
	x := &lines{dialer: net.Dialer{Timeout: timeout}, start: start}
	none := newLine(0)
	none.lose()
	x.last.Store(none)
	x.stood.Store(none)
	return x
}

// Dial implements nats.CustomDialer. It is called by one goroutine at a time, before anything is
// sent on the connection, and after the one before has been closed or has failed: the library leaves
// one open on which a server did not answer.
func (x *lines) Dial(network, address string) (net.Conn, error) {
	if x.before != nil {
		_ = x.before.Close()
	}
	x.mu.Lock()
	start := x.start
	x.mu.Unlock()
	c, err := x.dialer.DialContext(start, network, address)
	if err != nil {
		return nil, err
	}
	next := newLine(x.last.Load().nth + 1)
	x.last.Store(next)
	w := &wire{c, next}
	x.before = w
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.start == start {
		x.spare = context.AfterFunc(start, func() { _ = w.Close() })
	}
	return w, nil
}

// begun makes connections independent of the start's context.
func (x *lines) begun() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.start = context.WithoutCancel(x.start)
	if x.spare != nil {
		x.spare()
	}
}

// wire is the connection of a line, which it ends when the library closes it.
type wire struct {
	net.Conn
	line *line
}

func (w *wire) Close() error {
	w.line.lose()
	return w.Conn.Close()
}

// accepted notes that the servers have accepted a connection. It runs on a goroutine of the library
// and may wait while that connects: then it is called again for the connection made meanwhile.
func (x *lines) accepted(nc *nats.Conn) {
	if last := x.last.Load(); nc.IsConnected() && x.last.Load() == last {
		x.stood.Store(last)
	}
}

// nth returns the number of the current connection, from 1.
func (x *lines) nth() uint64 { return x.last.Load().nth }

// up reports whether the servers are reachable, as far as is known.
func (x *lines) up() bool { return x.stood.Load().ctx.Err() == nil }

// away returns for how long the servers have been known to be unreachable; 0: they are not.
func (x *lines) away() time.Duration {
	if lost := x.stood.Load().lost.Load(); lost != nil {
		return time.Since(*lost)
	}
	return 0
}

// unreachable reports whether the servers have been unreachable for Config.Timeout.
func (x *lines) unreachable() bool { return x.away() >= x.dialer.Timeout }
