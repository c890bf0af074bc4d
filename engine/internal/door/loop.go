package door

import (
	"bytes"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/netio"
)

// loop is a loop of the network below, as the Host sees it.
type loop struct {
	netio.Loop
	turner netio.Turner // the Host's

	some atomic.Bool // there are jobs
	mu   sync.Mutex
	jobs []job // guarded by mu
	look bool  // guarded by mu; the halves are to be looked at

	// Loop goroutine only.
	opening map[*conn]struct{} // in front of their session
	closers map[*conn]struct{} // behind it
	gather  []byte             // a message's header and its beginning
	cipher  []byte             // records on their way
	rd      bytes.Reader       // of a WebSocket header
	small   [12]byte
	end     wsEnd // of the stream that is taken apart

	deflater deflater

	frameTimeout time.Duration
	halves       map[*conn]struct{} // their peers have begun something and not ended it
	looking      bool               // a look at them is on its way
}

// job is what is to be done with a connection on its loop.
type job struct {
	c  *conn
	fn func(*conn)
}

// post has fn called on the loop's goroutine, soon. Any goroutine.
func (l *loop) post(c *conn, fn func(*conn)) {
	l.mu.Lock()
	l.jobs = append(l.jobs, job{c, fn})
	l.some.Store(true)
	l.mu.Unlock()
	_ = l.Loop.Execute() // it fails only where the loops have ended
}

// Turn does the jobs, then the Host's turn.
func (l *loop) Turn() {
	if l.some.Load() {
		l.mu.Lock()
		jobs, look := l.jobs, l.look
		l.jobs, l.look = nil, false
		l.some.Store(false)
		l.mu.Unlock()
		for _, j := range jobs {
			j.c.do(j.fn)
		}
		if look {
			l.expireHalves()
		}
	}
	l.turner.Turn()
}

// do runs fn, unless a call of the connection's is held up on another goroutine: then that
// one does when it goes on.
func (c *conn) do(fn func(*conn)) {
	if c.inside {
		c.later = append(c.later, fn)
		return
	}
	c.inside = true
	fn(c)
	c.leave()
}

// StandIn gives the network below its own connections, and those that have no session.
func (l *loop) StandIn(busy netio.Conn, conns iter.Seq[netio.Conn]) (giveBack func(), ok bool) {
	return l.Loop.StandIn(socket(busy), func(yield func(netio.Conn) bool) {
		for c := range conns {
			if !yield(socket(c)) {
				return
			}
		}
		for _, some := range []map[*conn]struct{}{l.opening, l.closers} {
			for c := range some {
				if !yield(c.Conn) {
					return
				}
			}
		}
	})
}

// socket is the connection below the layers.
func socket(c netio.Conn) netio.Conn {
	if d, ok := c.(*conn); ok {
		return d.Conn
	}
	return c
}
