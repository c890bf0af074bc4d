package main

import (
	"bytes"
	"net"
	"net/http"
	"sync"

	"github.com/lxzan/gws"
)

// gwsServer: a goroutine a connection, WebSocket only. Its API hands over and writes message by message.
type gwsServer struct {
	gws.BuiltinEventHandler
	outs sync.Pool // *[]byte

	mu    sync.RWMutex
	conns map[*gws.Conn]struct{}
}

func serveGWS(o options) error {
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	s := &gwsServer{conns: make(map[*gws.Conn]struct{})}
	s.outs.New = func() any { return new([]byte) }
	up := gws.NewUpgrader(s, &gws.ServerOption{ReadMaxPayloadSize: maxFrame + header, WriteMaxPayloadSize: maxFrame + header})
	announceAll("ws://" + l.Addr().String())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := up.Upgrade(w, r); err == nil {
			go c.ReadLoop() // else the request would stay in memory
		}
	}))
}

func (s *gwsServer) OnOpen(c *gws.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *gwsServer) OnClose(c *gws.Conn, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *gwsServer) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	buf := s.outs.Get().(*[]byte)
	defer s.outs.Put(buf)
	out, err := answerMessage((*buf)[:0], m.Bytes(), s.broadcast)
	*buf = out
	if err != nil {
		c.WriteClose(1002, nil)
		return
	}
	if len(out) > 0 {
		_ = c.WriteMessage(gws.OpcodeBinary, out) // a failure reaches OnClose
	}
}

func (s *gwsServer) broadcast(frame []byte) {
	b := gws.NewBroadcaster(gws.OpcodeBinary, bytes.Clone(frame))
	defer b.Close()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.conns {
		_ = b.Broadcast(c)
	}
}
