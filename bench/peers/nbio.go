package main

import (
	"bytes"
	"net"
	"net/http"
	"sync"

	llib "github.com/lesismal/llib/std/crypto/tls"
	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/mempool"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"
)

// nbioServer answers on nbio's pollers; what a read leaves of a frame waits in the connection's session.
// A door has an engine of its own beside the plain one.
type nbioServer struct {
	mu    sync.RWMutex
	conns map[any]func(frame []byte)
	bufs  sync.Pool // *[]byte
}

func serveNbio(o options) error {
	logging.SetLevel(logging.LevelNone)
	s := &nbioServer{conns: make(map[any]func([]byte))}
	s.bufs.New = func() any { return new([]byte) }
	urls := []string{"tcp://"}
	starts := []func(options, *net.Addr) error{s.plain}
	if o.opens("tls") {
		urls, starts = append(urls, "tls://"), append(starts, s.secure)
	}
	if o.opens("ws") {
		urls, starts = append(urls, "ws://"), append(starts, s.webSocket)
	}
	for i, start := range starts {
		var bound net.Addr
		if err := start(o, &bound); err != nil {
			return err
		}
		urls[i] += bound.String()
	}
	announceAll(urls...)
	select {}
}

// listen notes what was bound.
func listen(bound *net.Addr) func(network, addr string) (net.Listener, error) {
	return func(network, addr string) (net.Listener, error) {
		l, err := net.Listen(network, addr)
		if err == nil {
			*bound = l.Addr()
		}
		return l, err
	}
}

func nbioEngine(o options, bound *net.Addr) *nbio.Engine {
	return nbio.NewEngine(nbio.Config{
		Network: "tcp", Addrs: []string{o.addr}, NPoller: o.loops,
		ReadBufferSize: readBuffer, MaxWriteBufferSize: 64 << 20, Listen: listen(bound),
	})
}

func (s *nbioServer) join(c any, send func(frame []byte)) {
	s.mu.Lock()
	s.conns[c] = send
	s.mu.Unlock()
}

func (s *nbioServer) leave(c any) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *nbioServer) plain(o options, bound *net.Addr) error {
	g := nbioEngine(o, bound)
	g.OnOpen(func(c *nbio.Conn) { s.join(c, func(frame []byte) { _, _ = c.Write(frame) }) })
	g.OnClose(func(c *nbio.Conn, _ error) { s.leave(c) })
	g.OnData(s.data)
	return g.Start()
}

func (s *nbioServer) data(c *nbio.Conn, in []byte) {
	if held, ok := c.Session().([]byte); ok && len(held) > 0 {
		in = append(held, in...)
	}
	buf := s.bufs.Get().(*[]byte)
	out, used, err := answer((*buf)[:0], in, s.broadcast)
	if len(out) > 0 {
		_, _ = c.Write(out) // copies what it can't send at once
	}
	*buf = out
	s.bufs.Put(buf)
	if err != nil {
		c.Close()
		return
	}
	if used < len(in) {
		c.SetSession(bytes.Clone(in[used:]))
	} else if c.Session() != nil {
		c.SetSession(nil)
	}
}

func (s *nbioServer) broadcast(frame []byte) {
	frame = bytes.Clone(frame)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, send := range s.conns {
		send(frame)
	}
}

// nbioSecure is a connection behind nbio's own copy of crypto/tls, which does not block.
type nbioSecure struct {
	tc   *llib.Conn
	held []byte
}

func (s *nbioServer) secure(o options, bound *net.Addr) error {
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	pair, err := llib.X509KeyPair(cert.cert, cert.key)
	if err != nil {
		return err
	}
	cfg := &llib.Config{Certificates: []llib.Certificate{pair}}
	g := nbioEngine(o, bound)
	g.OnOpen(func(c *nbio.Conn) {
		sc := &nbioSecure{tc: llib.NewConn(c, cfg, false, true, mempool.DefaultMemPool)}
		c.SetSession(sc)
		s.join(sc, func(frame []byte) { _, _ = sc.tc.Write(frame) })
	})
	g.OnClose(func(c *nbio.Conn, _ error) {
		if sc, ok := c.Session().(*nbioSecure); ok {
			s.leave(sc)
		}
	})
	g.OnData(s.records)
	return g.Start()
}

// records decrypts all that has come and answers it with one Write.
func (s *nbioServer) records(c *nbio.Conn, b []byte) {
	sc, ok := c.Session().(*nbioSecure)
	if !ok {
		return
	}
	if _, err := sc.tc.Append(b); err != nil {
		c.Close()
		return
	}
	in, out := s.bufs.Get().(*[]byte), s.bufs.Get().(*[]byte)
	defer s.bufs.Put(in)
	defer s.bufs.Put(out)
	*in = append((*in)[:0], sc.held...)
	for n := 1; n > 0; {
		if cap(*in)-len(*in) < stdFirst {
			*in = append(*in, make([]byte, readBuffer)...)[:len(*in)]
		}
		var err error
		if n, err = sc.tc.Read((*in)[len(*in):cap(*in)]); err != nil {
			c.Close()
			return
		}
		*in = (*in)[:len(*in)+n]
	}
	var used int
	var err error
	*out, used, err = answer((*out)[:0], *in, s.broadcast)
	if len(*out) > 0 {
		_, _ = sc.tc.Write(*out)
	}
	if err != nil {
		c.Close()
	}
	sc.held = append(sc.held[:0], (*in)[used:]...)
}

// webSocket: nbio's HTTP engine, its messages handled on the pollers. Each is written by itself.
func (s *nbioServer) webSocket(o options, bound *net.Addr) error {
	up := websocket.NewUpgrader()
	up.KeepaliveTime = 0
	up.OnOpen(func(c *websocket.Conn) {
		s.join(c, func(frame []byte) { _ = c.WriteMessage(websocket.BinaryMessage, frame) })
	})
	up.OnClose(func(c *websocket.Conn, _ error) { s.leave(c) })
	up.OnMessage(s.message)
	g := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp", Addrs: []string{o.addr}, NPoller: o.loops, MaxLoad: 1 << 20,
		ReadBufferSize: readBuffer, MaxWriteBufferSize: 64 << 20, ReleaseWebsocketPayload: true,
		Listen: listen(bound), ServerExecutor: func(f func()) { f() },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = up.Upgrade(w, r, nil) // it answers what it refuses
		}),
	})
	return g.Start()
}

func (s *nbioServer) message(c *websocket.Conn, _ websocket.MessageType, in []byte) {
	buf := s.bufs.Get().(*[]byte)
	defer s.bufs.Put(buf)
	out, err := answerMessage((*buf)[:0], in, s.broadcast)
	*buf = out
	if err != nil {
		_ = c.Close()
		return
	}
	if len(out) > 0 {
		_ = c.WriteMessage(websocket.BinaryMessage, out)
	}
}
