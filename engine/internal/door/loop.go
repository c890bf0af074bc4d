package door

import (
	"container/list"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/netio"
)

// loop is a loop of the network below, as the Host sees it.
type loop struct {
	netio.Loop
	h      *Host
	turner netio.Turner // the engine's

	some atomic.Bool // there are jobs
	mu   sync.Mutex
	jobs []job // guarded by mu
	look bool  // guarded by mu; the halves are to be looked at
	late bool  // guarded by mu; the openings are

	// Loop goroutine only.
	opening map[*conn]struct{} // in front of their session
	silent  list.List          // the same, *conn, by when they were last heard
	closers map[*conn]struct{} // behind it
	gather  []byte             // a message's header and its beginning
	framed  framed
	cipher  []byte // records on their way
	plain   []byte // what a read has brought, decrypted; nil: in use
	room    wsRoom
	end     wsEnd  // of the stream that is taken apart
	spare   *extra // for the next connection that needs one

	deflater deflater

	frameTimeout time.Duration
	halves       map[*conn]half // their peers have begun something and not ended it
	looking      bool           // a look at them is on its way

	alarm   *time.Timer // has the openings looked at
	alarmAt int64       // when, in nanoseconds of Host.now; 0: it is not set
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
		jobs, look, late := l.jobs, l.look, l.late
		l.jobs, l.look, l.late = nil, false, false
		l.some.Store(false)
		l.mu.Unlock()
		for _, j := range jobs {
			j.c.do(j.fn)
		}
		if look {
			l.expireHalves()
		}
		if late {
			l.expireOpenings()
		}
	}
	l.turner.Turn()
}

// do runs fn, unless a call of the connection's is held up on another goroutine: then that
// one does when it goes on.
func (c *conn) do(fn func(*conn)) {
	if c.inside {
		x := c.more()
		x.later = append(x.later, fn)
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
