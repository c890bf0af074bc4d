package main

import (
	"bytes"
	"net"
	"sync"

	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"
)

// nbioServer answers on nbio's pollers; what a read leaves of a frame waits in the connection's session.
type nbioServer struct {
	mu    sync.RWMutex
	conns map[*nbio.Conn]struct{}
	outs  sync.Pool // *[]byte
}

func serveNbio(o options) error {
	logging.SetLevel(logging.LevelNone)
	s := &nbioServer{conns: make(map[*nbio.Conn]struct{})}
	s.outs.New = func() any { return new([]byte) }
	var bound net.Addr
	g := nbio.NewEngine(nbio.Config{
		Network: "tcp", Addrs: []string{o.addr}, NPoller: o.loops,
		ReadBufferSize: readBuffer, MaxWriteBufferSize: 64 << 20,
		Listen: func(network, addr string) (net.Listener, error) {
			l, err := net.Listen(network, addr)
			if err == nil {
				bound = l.Addr()
			}
			return l, err
		},
	})
	g.OnOpen(func(c *nbio.Conn) {
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
	})
	g.OnClose(func(c *nbio.Conn, _ error) {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
	g.OnData(s.data)
	if err := g.Start(); err != nil {
		return err
	}
	ready(bound)
	select {}
}

func (s *nbioServer) data(c *nbio.Conn, in []byte) {
	if held, ok := c.Session().([]byte); ok && len(held) > 0 {
		in = append(held, in...)
	}
	buf := s.outs.Get().(*[]byte)
	out, used, err := answer((*buf)[:0], in, s.broadcast)
	if len(out) > 0 {
		_, _ = c.Write(out) // copies what it can't send at once
	}
	*buf = out
	s.outs.Put(buf)
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
	for c := range s.conns {
		_, _ = c.Write(frame)
	}
}
