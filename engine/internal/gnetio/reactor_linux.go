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

// reactor is one gnet engine: its event handler. TCP addresses share one; unix sockets
// have one of their own, since a single unix address would take SO_REUSEPORT from all.
type reactor struct {
	gnet.BuiltinEventEngine
	n       *Network
	single  bool // one goroutine accepts
	unix    bool // its addresses are unix sockets
	reserve bool // nobody does; see reserve
	eng     gnet.Engine
	log     *gnetLog

	acceptEnd chan struct{} // accept has failed behind Stop
	up        chan struct{} // closed when every loop is there
	upOnce    sync.Once
	ended     chan struct{} // closed when gnet's Run has returned and what it left is cleared away
	err       error         // why gnet ended; read after ended
	loops     sync.Map      // gnet.EventLoop → *loop
}

func (n *Network) newReactor(single bool) *reactor {
	r := &reactor{n: n, single: single, acceptEnd: make(chan struct{}, 16), up: make(chan struct{}), ended: make(chan struct{})}
	r.log = newGnetLog(r)
	return r
}

// run starts gnet on the addresses and returns when its loops are there.
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
			err = errors.New(r.log.lastError()) // it returns nil even when an accept error has stopped it
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

// supervise reports when gnet ends without having been told to.
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

// stop tells the loops to end; every connection still open is closed. ended tells when
// they have.
func (r *reactor) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel() // Engine.Stop would poll each half second
	_ = r.eng.Stop(now)
}

func (r *reactor) OnBoot(eng gnet.Engine) gnet.Action {
	r.eng = eng
	return gnet.None
}

// OnTick runs once gnet has made all of its loops; nothing else is known to.
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
	c.within = true
	sink, no := r.n.host.Open(l.turner, c, int(c.fd))
	c.within = false
	if sink == nil && !c.doomed {
		return nil, l.turnAway(c, no)
	}
	c.sink = sink
	if c.doomed {
		return nil, gnet.Close
	}
	if rd := l.reader.Load(); rd != nil {
		rd.take(c)
	}
	return nil, gnet.None
}

func (r *reactor) OnTraffic(g gnet.Conn) gnet.Action {
	n := g.InboundBuffered()
	if n == 0 {
		return gnet.None
	}
	b, err := g.Next(n) // everything is taken each time, so this is a window of the read buffer
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
	c.within = true
	c.sink.Received(b)
	c.within = false
	if c.doomed {
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
	}
	return gnet.None
}

func (r *reactor) eachLoop(fn func(*loop)) {
	r.loops.Range(func(_, l any) bool {
		fn(l.(*loop))
		return true
	})
}

// loopOf finds the loop of a connection, and makes it at the first one. Loop goroutine.
func (r *reactor) loopOf(g gnet.Conn) *loop {
	el := g.EventLoop()
	if l, ok := r.loops.Load(el); ok {
		return l.(*loop)
	}
	l := &loop{r: r, n: r.n, el: el, epfd: -1}
	l.discover(g)
	l.turner = r.n.host.NewLoop(l)
	l.made = l.newReader()
	r.loops.Store(el, l)
	return l
}

var _ netio.Loop = (*loop)(nil)
