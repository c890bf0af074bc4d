package gnetio

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/panjf2000/gnet/v2"

	"millrace/engine/internal/netio"
)

// reactor is the event handler of one gnet engine. TCP addresses share one. Unix sockets have
// another, since gnet turns SO_REUSEPORT off for an engine that has a unix address.
type reactor struct {
	gnet.BuiltinEventEngine
	n       *Network
	single  bool // one goroutine accepts for all loops
	unix    bool // its addresses are unix sockets
	reserve bool // it has no listeners; see type reserve
	eng     gnet.Engine
	log     *gnetLog

	acceptEnd chan struct{} // sent to when accept fails while Stop runs
	up        chan struct{} // closed when gnet has made every loop
	upOnce    sync.Once
	ended     chan struct{} // closed when gnet.Rotate has returned and bury has closed what it left
	err       error         // why gnet ended; read after ended
	loops     sync.Map      // gnet.EventLoop → *loop
}

func (n *Network) newReactor(single bool) *reactor {
	r := &reactor{n: n, single: single, acceptEnd: make(chan struct{}, 16), up: make(chan struct{}), ended: make(chan struct{})}
	r.log = newGnetLog(r)
	return r
}

// run starts gnet on the addresses and returns when it has made its loops.
func (r *reactor) run(addrs []string) error {
	c := &r.n.cfg
	opts := gnet.Options{
		NumEventLoop: c.Loops, LB: gnet.LoadBalancing(c.Balance), ReuseAddr: true, ReusePort: !r.single,
		ReadBufferCap: c.ReadBuffer, Ticker: true,
		TCPKeepAlive: c.KeepAlive, TCPKeepInterval: c.KeepAliveEvery, TCPKeepCount: c.KeepAliveCount,
		SocketRecvBuffer: c.SocketRecvBuffer, SocketSendBuffer: c.SocketSendBuffer,
		Logger: r.log,
	}
	if c.Delay {
		opts.TCPNoDelay = gnet.TCPDelay
	}
	addrs = namedApart(addrs)
	go func() {
		err := gnet.Rotate(r, addrs, gnet.WithOptions(opts))
		if err == nil {
			err = errors.New(r.log.lastError()) // Rotate returns nil even when an accept error has ended it
		}
		forgetEngine(addrs)
		r.eachLoop((*loop).bury)
		r.log.r.Store(nil)
		r.err = err
		close(r.ended)
	}()
	select {
	case <-r.up:
		return nil
	case <-r.ended:
		return r.err
	}
}

// supervise reports to the Host when gnet ends without Stop.
func (r *reactor) supervise() {
	select {
	case <-r.n.quit:
	case <-r.ended:
		r.n.fail(fmt.Errorf("the event loops have ended: %w", r.err))
	}
}

func (r *reactor) hasEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// stop makes gnet close all connections and end the loops. It does not wait: ended is closed
// when they have ended.
func (r *reactor) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel() // otherwise Engine.Stop waits, and polls each half second
	_ = r.eng.Stop(now)
}

func (r *reactor) OnBoot(eng gnet.Engine) gnet.Action {
	r.eng = eng
	return gnet.None
}

// OnTick shows that gnet has made all its loops: it is first called after that. gnet has no other
// sign of it.
func (r *reactor) OnTick() (time.Duration, gnet.Action) {
	r.upOnce.Do(func() { close(r.up) })
	return 24 * time.Hour, gnet.None
}

func (r *reactor) OnOpen(g gnet.Conn) ([]byte, gnet.Action) {
	l := r.loopOf(g)
	switch x := g.Context().(type) {
	case *probe:
		x.open(l, g)
		return nil, gnet.None
	case *reader:
		x.begin(g)
		return nil, gnet.None
	}
	c := l.newConn(g)
	c.call = inside
	sink, no := r.n.host.Open(l.turner, c, int(c.fd))
	ends := c.call == doomed
	c.call = outside
	if sink == nil && !ends {
		return nil, l.turnAway(c, no)
	}
	c.sink = sink
	if ends {
		return nil, gnet.Close
	}
	if rd := l.reader.Load(); rd != nil {
		rd.take(c, l.mayOwn())
	}
	return nil, gnet.None
}

func (r *reactor) OnTraffic(g gnet.Conn) gnet.Action {
	n := g.InboundBuffered()
	if n == 0 {
		return gnet.None
	}
	b, err := g.Next(n) // as nothing is ever left in gnet, this is a part of its read buffer and no copy
	if err != nil {
		return gnet.Close
	}
	var c *conn
	switch x := g.Context().(type) {
	case *conn:
		c = x
	case *reader:
		x.run()
		return gnet.None
	case *probe:
		x.hear()
		return gnet.Close
	}
	if c.receive(b) {
		return gnet.Close
	}
	return gnet.None
}

func (r *reactor) OnClose(g gnet.Conn, err error) gnet.Action {
	switch x := g.Context().(type) {
	case *conn:
		x.closed(endOf(err))
	case *reader:
		x.ring = nil
		x.l.endOwn()
	}
	return gnet.None
}

func (r *reactor) eachLoop(fn func(*loop)) {
	r.loops.Range(func(_, l any) bool {
		fn(l.(*loop))
		return true
	})
}

// loopOf returns the loop of a connection, which it makes for the first one. Loop goroutine.
func (r *reactor) loopOf(g gnet.Conn) *loop {
	el := g.EventLoop()
	if l, ok := r.loops.Load(el); ok {
		return l.(*loop)
	}
	l := &loop{r: r, n: r.n, el: el, epfd: -1, gnets: map[int32]gnet.Conn{}}
	l.discover(g)
	l.turner = r.n.host.NewLoop(l)
	l.made = l.newReader()
	r.loops.Store(el, l)
	return l
}

var _ netio.Loop = (*loop)(nil)
