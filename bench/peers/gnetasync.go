package main

import (
	"bytes"
	"sync"

	"github.com/panjf2000/ants/v2"
	"github.com/panjf2000/gnet/v2"
)

// gnetAsync answers on a pool of goroutines: a batch is copied, one task of its connection at a
// time works it off, and its answers leave with one AsyncWrite.
type gnetAsync struct {
	gnetServer
	pool *ants.Pool
}

// asyncConn keeps a connection's batches in order.
type asyncConn struct {
	loop *gnetLoop

	mu      sync.Mutex // guards what follows
	batches [][]byte
	running bool
}

func serveGnetAsync(o options) error {
	addr, err := freeAddr(o.addr)
	if err != nil {
		return err
	}
	pool, err := ants.NewPool(256 * o.loops)
	if err != nil {
		return err
	}
	s := &gnetAsync{pool: pool}
	s.addr = addr
	return gnet.Run(s, "tcp://"+addr, gnetOptions(o)...)
}

func (s *gnetAsync) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	l := s.loopOf(c.EventLoop())
	l.conns[c] = struct{}{}
	c.SetContext(&asyncConn{loop: l})
	return nil, gnet.None
}

func (s *gnetAsync) OnClose(c gnet.Conn, _ error) gnet.Action {
	if a, ok := c.Context().(*asyncConn); ok {
		delete(a.loop.conns, c)
	}
	return gnet.None
}

func (s *gnetAsync) OnTraffic(c gnet.Conn) gnet.Action {
	in, err := c.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	used := 0
	for {
		frame, err := next(in[used:])
		if err != nil {
			return gnet.Close
		}
		if frame == nil {
			break
		}
		used += len(frame)
	}
	if used == 0 {
		return gnet.None
	}
	a := c.Context().(*asyncConn)
	batch := bytes.Clone(in[:used])
	_, _ = c.Discard(used)
	a.mu.Lock()
	a.batches = append(a.batches, batch)
	start := !a.running
	a.running = true
	a.mu.Unlock()
	if start {
		if err := s.pool.Submit(func() { s.work(c, a) }); err != nil {
			return gnet.Close
		}
	}
	return gnet.None
}

// work runs on the pool until the connection has no batch left.
func (s *gnetAsync) work(c gnet.Conn, a *asyncConn) {
	for {
		a.mu.Lock()
		if len(a.batches) == 0 {
			a.running = false
			a.mu.Unlock()
			return
		}
		batches := a.batches
		a.batches = nil
		a.mu.Unlock()
		size := 0
		for _, b := range batches {
			size += len(b)
		}
		out := make([]byte, 0, size) // AsyncWrite keeps it
		for _, b := range batches {
			var err error
			if out, _, err = answer(out, b, s.broadcast); err != nil {
				_ = c.Close()
				return
			}
		}
		if len(out) > 0 {
			_ = c.AsyncWrite(out, nil)
		}
	}
}
