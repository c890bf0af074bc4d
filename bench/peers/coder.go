package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// coderServer: a goroutine a connection, WebSocket only. Each Write is flushed.
type coderServer struct {
	mu    sync.RWMutex
	conns map[*websocket.Conn]struct{}
}

func serveCoder(o options) error {
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	s := &coderServer{conns: make(map[*websocket.Conn]struct{})}
	announceAll("ws://" + l.Addr().String())
	return http.Serve(l, s)
}

func (s *coderServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	c.SetReadLimit(maxFrame + header)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		_ = c.CloseNow()
	}()
	var in bytes.Buffer
	var out []byte
	ctx := context.Background() // the request's would cost a goroutine for each call
	for {
		_, m, err := c.Reader(ctx)
		if err != nil {
			return
		}
		in.Reset()
		if _, err := io.Copy(&in, m); err != nil {
			return
		}
		if out, err = answerMessage(out[:0], in.Bytes(), s.broadcast); err != nil {
			return
		}
		if len(out) > 0 && c.Write(ctx, websocket.MessageBinary, out) != nil {
			return
		}
	}
}

func (s *coderServer) broadcast(frame []byte) {
	frame = bytes.Clone(frame)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.conns {
		_ = c.Write(context.Background(), websocket.MessageBinary, frame) // its own goroutine sees the failure
	}
}
