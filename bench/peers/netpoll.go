package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"sync"

	"github.com/cloudwego/netpoll"
)

// netpollServer answers in OnRequest, on netpoll's goroutine pool: everything that has arrived is
// one batch, its answers one Flush.
type netpollServer struct {
	mu    sync.RWMutex
	conns map[netpoll.Connection]*sync.Mutex // Writer and Flush are not for several goroutines
}

type netpollKey struct{}

func serveNetpoll(o options) error {
	err := netpoll.Configure(netpoll.Config{PollerNum: o.loops, LoggerOutput: io.Discard})
	if err != nil {
		return err
	}
	l, err := netpoll.CreateListener("tcp", o.addr)
	if err != nil {
		return err
	}
	s := &netpollServer{conns: make(map[netpoll.Connection]*sync.Mutex)}
	loop, err := netpoll.NewEventLoop(s.request, netpoll.WithOnPrepare(s.prepare))
	if err != nil {
		return err
	}
	ready(l.Addr())
	return loop.Serve(l)
}

func (s *netpollServer) prepare(c netpoll.Connection) context.Context {
	mu := new(sync.Mutex)
	s.mu.Lock()
	s.conns[c] = mu
	s.mu.Unlock()
	_ = c.AddCloseCallback(func(c netpoll.Connection) error {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		return nil
	})
	return context.WithValue(context.Background(), netpollKey{}, mu)
}

// request is called again while bytes are left, so it waits for the rest of a frame: the library's way.
func (s *netpollServer) request(ctx context.Context, c netpoll.Connection) error {
	mu := ctx.Value(netpollKey{}).(*sync.Mutex)
	casts, err := s.batch(c, mu)
	for _, frame := range casts {
		s.broadcast(frame)
	}
	if err != nil {
		return c.Close()
	}
	return nil
}

// batch echoes everything that has arrived with one Flush and returns the broadcasts in it.
func (s *netpollServer) batch(c netpoll.Connection, mu *sync.Mutex) (casts [][]byte, err error) {
	r, w := c.Reader(), c.Writer()
	mu.Lock()
	defer mu.Unlock()
	for first := true; first || r.Len() >= header; first = false {
		head, err := r.Peek(header)
		if err != nil {
			return casts, err
		}
		n := int(binary.BigEndian.Uint32(head))
		if n < smallestFrame || n > maxFrame {
			return casts, errFrame
		}
		if !first && r.Len() < 4+n {
			break
		}
		frame, err := r.Next(4 + n)
		if err != nil {
			return casts, err
		}
		switch binary.BigEndian.Uint32(frame[4:]) {
		case echoHandle:
			out, err := w.Malloc(len(frame))
			if err != nil {
				return casts, err
			}
			copy(out, frame)
		case castHandle:
			casts = append(casts, bytes.Clone(frame))
		default:
			return casts, errFrame
		}
	}
	_ = r.Release()
	return casts, w.Flush()
}

func write(c netpoll.Connection, mu *sync.Mutex, b []byte) {
	mu.Lock()
	defer mu.Unlock()
	w := c.Writer()
	if _, err := w.WriteBinary(b); err == nil {
		_ = w.Flush()
	}
}

func (s *netpollServer) broadcast(frame []byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c, mu := range s.conns {
		write(c, mu, frame)
	}
}
