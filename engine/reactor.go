package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"

	"millrace/codec"
)

// reactor adapts one gnet engine to the server: it is gnet's event handler. TCP
// addresses share one; unix sockets have one of their own, since a single unix address
// would take SO_REUSEPORT from all.
type reactor struct {
	gnet.BuiltinEventEngine
	srv    *Server
	single bool // one goroutine accepts
	eng    gnet.Engine
	log    *gnetLog
	up     chan struct{} // closed when every loop is there
	upOnce sync.Once
	ended  chan struct{} // closed when gnet's Run has returned
	err    error         // what Run returned; read after ended
	gloops sync.Map      // gnet.EventLoop → *gloop
}

// gloop is a loop's executor on gnet.
type gloop struct {
	el gnet.EventLoop
	l  *loop
	sys
}

func (g *gloop) execute(*loop) error { return g.el.Execute(context.Background(), g) }

// Run is called by gnet on the loop goroutine.
func (g *gloop) Run(context.Context) error {
	g.l.turn()
	return nil
}

// reject is a connection that was refused: what it sends is thrown away for a while, so
// that the ERROR reaches it.
type reject struct {
	c     gnet.Conn
	place int
	since int64
	n     int
}

func (srv *Server) newReactor(single bool) *reactor {
	r := &reactor{srv: srv, single: single, up: make(chan struct{}), ended: make(chan struct{})}
	r.log = &gnetLog{srv: srv, r: r}
	return r
}

// run starts gnet on the addresses and returns when its loops are there.
func (r *reactor) run(addrs []string) error {
	c := &r.srv.cfg
	opts := gnet.Options{
		NumEventLoop: c.Loops, LB: gnet.LoadBalancing(c.Balance), ReuseAddr: true, ReusePort: !r.single,
		ReadBufferCap: c.ReadBuffer, LockOSThread: c.LockOSThread, Ticker: true,
		TCPKeepAlive: c.KeepAlive, TCPKeepInterval: c.KeepAliveEvery, TCPKeepCount: c.KeepAliveCount,
		SocketRecvBuffer: c.SocketRecvBuffer, SocketSendBuffer: c.SocketSendBuffer,
		EdgeTriggeredIO: c.EdgeTriggered, Logger: r.log,
	}
	if c.Delay {
		opts.TCPNoDelay = gnet.TCPDelay
	}
	go func() {
		r.err = gnet.Rotate(r, addrs, gnet.WithOptions(opts))
		close(r.ended)
	}()
	select {
	case <-r.up:
		return nil
	case <-r.ended:
		if r.err == nil {
			r.err = errors.New(r.log.lastError())
		}
		return fmt.Errorf("engine: listen %s: %w", strings.Join(addrs, " "), r.err)
	}
}

// supervise reports when gnet ends without having been told to: it returns nil even
// when an accept error has stopped it.
func (r *reactor) supervise() {
	defer r.srv.bg.Done()
	select {
	case <-r.srv.quit:
	case <-r.ended:
		err := r.err
		if err == nil {
			err = errors.New(r.log.lastError())
		}
		r.srv.fail(fmt.Errorf("engine: the event loops have ended: %w", err))
	}
}

// stop ends the loops; every connection still open is closed.
func (r *reactor) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel() // Engine.Stop would poll each half second; ended tells at once
	r.eng.Stop(now)
	<-r.ended
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

// loopOf finds the loop of a connection, and makes it at the first one. Loop goroutine.
func (r *reactor) loopOf(c gnet.Conn) *loop {
	el := c.EventLoop()
	if v, ok := r.gloops.Load(el); ok {
		return v.(*gloop).l
	}
	g := &gloop{el: el}
	g.l = r.srv.addLoop(g)
	g.sys.discover(r, c)
	r.gloops.Store(el, g)
	return g.l
}

// addLoop makes the loop of an executor known to broadcasts and to the ticker.
func (srv *Server) addLoop(x executor) *loop {
	srv.loopMu.Lock()
	defer srv.loopMu.Unlock()
	old := *srv.loops.Load()
	l := newLoop(srv, len(old), x)
	loops := append(append([]*loop(nil), old...), l)
	srv.loops.Store(&loops)
	return l
}

func (r *reactor) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	l := r.loopOf(c)
	if p, ok := c.Context().(*probe); ok {
		p.open(l, c)
		return nil, gnet.None
	}
	remote := ownAddr(c.RemoteAddr())
	why, ok := r.srv.admit(c.Fd(), remote)
	if !ok {
		return nil, r.reject(l, c, why)
	}
	s := newSession(l, c)
	s.srv, s.loop, s.remote = r.srv, l, remote
	c.SetContext(s)
	if !l.accept(s) {
		c.SetContext(nil)
		if r.srv.cfg.MaxConnsPerIP > 0 {
			r.srv.perIP.leave(remote)
		}
		return nil, r.reject(l, c, refusedConns)
	}
	return nil, gnet.None
}

// ownAddr makes sure that nothing of gnet's memory stays in the address.
func ownAddr(a net.Addr) net.Addr {
	if t, ok := a.(*net.TCPAddr); ok && t.Zone != "" {
		return &net.TCPAddr{IP: t.IP, Port: t.Port, Zone: strings.Clone(t.Zone)}
	}
	return a
}

func (r *reactor) OnTraffic(c gnet.Conn) gnet.Action {
	n := c.InboundBuffered()
	if n == 0 {
		return gnet.None
	}
	b, err := c.Next(n) // everything is taken each time, so this is a window of the read buffer
	if err != nil {
		return gnet.Close
	}
	switch x := c.Context().(type) {
	case *Session:
		return x.wire.(*sock).traffic(b)
	case *probe:
		return x.hear()
	case *reject:
		if x.n += n; x.n > lingerExcess {
			return gnet.Close
		}
	}
	return gnet.None
}

func (r *reactor) OnClose(c gnet.Conn, err error) gnet.Action {
	switch x := c.Context().(type) {
	case *Session:
		fin := err != nil && errors.Is(err, io.EOF)
		hangup := err == io.EOF // gnet saw EPOLLHUP or EPOLLERR and did not read
		x.loop.gone(x, fin && !hangup, hangup)
	case *reject:
		l := r.loopOf(c)
		last := len(l.rejects) - 1
		l.rejects[x.place] = l.rejects[last]
		l.rejects[x.place].place = x.place
		l.rejects[last] = nil
		l.rejects = l.rejects[:last]
	}
	return gnet.None
}

// reject answers a connection that can't be served: an ERROR, then FIN.
func (r *reactor) reject(l *loop, c gnet.Conn, why refusal) gnet.Action {
	srv := r.srv
	srv.refused[why].Add(1)
	if !srv.cfg.NoSystemFrames {
		code, text := why.answer()
		sayGoodbye(c.Fd(), srv.codec.Append(nil, srv.errorPacket(codec.Packet{}, code, text)))
	}
	if why == refusedFiles || len(l.rejects) >= max(1, srv.cfg.MaxRefused/srv.cfg.Loops) {
		emptyInput(c.Fd())
		return gnet.Close
	}
	x := &reject{c: c, place: len(l.rejects), since: srv.now()}
	l.rejects = append(l.rejects, x)
	c.SetContext(x)
	return gnet.None
}

// sweepRejects closes refused connections that have had their time.
func (l *loop) sweepRejects() {
	now := l.srv.now()
	for i := len(l.rejects) - 1; i >= 0; i-- {
		if x := l.rejects[i]; past(now, x.since, l.srv.cfg.Linger) {
			x.c.EventLoop().Close(x.c)
		}
	}
}

// gnetLog passes gnet's own log lines on, errors as warnings, and keeps the last error.
type gnetLog struct {
	srv  *Server
	r    *reactor
	last atomic.Pointer[string]
}

var _ logging.Logger = (*gnetLog)(nil)

func (g *gnetLog) lastError() string {
	if s := g.last.Load(); s != nil {
		return *s
	}
	return "no reason was given"
}

func (g *gnetLog) Debugf(format string, args ...any) {}
func (g *gnetLog) Infof(format string, args ...any)  {}
func (g *gnetLog) Warnf(format string, args ...any) {
	g.srv.cfg.Logger.Debug("gnet: " + fmt.Sprintf(format, args...))
}
func (g *gnetLog) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	g.last.Store(&text)
	g.srv.cfg.Logger.Debug("gnet: " + text)
	if strings.HasPrefix(text, "Accept() failed") {
		g.r.acceptFailed()
	}
}
func (g *gnetLog) Fatalf(format string, args ...any) { g.Errorf(format, args...) }
