package main

import (
	"bytes"
	"net"
	"sync"
)

// stdServer is the standard library's way: a goroutine for each connection, one write for each read.
// A broadcast is written by the goroutine that got it.
type stdServer struct {
	locked bool // a lock of the whole server held during Write: a mistake that the suite must see
	one    sync.Mutex

	mu    sync.RWMutex
	conns map[*stdConn]struct{}
}

type stdConn struct {
	net.Conn
	mu sync.Mutex // a write is whole
}

func serveStd(o options) error     { return (&stdServer{}).run(o) }
func serveStdLock(o options) error { return (&stdServer{locked: true}).run(o) }

func (s *stdServer) run(o options) error {
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	ready(l.Addr())
	s.conns = make(map[*stdConn]struct{})
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		sc := &stdConn{Conn: c}
		s.mu.Lock()
		s.conns[sc] = struct{}{}
		s.mu.Unlock()
		go s.serve(sc)
	}
}

// stdFirst is a connection's buffer to begin with; one that reads fill grows to readBuffer.
const stdFirst = 4 << 10

func (s *stdServer) serve(c *stdConn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.Close()
	}()
	in := make([]byte, stdFirst)
	var out []byte
	held := 0
	for {
		n, err := c.Read(in[held:])
		if err != nil {
			return
		}
		full := held+n == len(in)
		var used int
		out, used, err = answer(out[:0], in[:held+n], s.broadcast)
		if len(out) > 0 && s.write(c, out) != nil || err != nil {
			return
		}
		held = copy(in, in[used:held+n])
		if full && (len(in) < readBuffer || held == len(in)) {
			in = append(in[:held], make([]byte, 2*len(in)-held)...)
		}
	}
}

func (s *stdServer) write(c *stdConn, b []byte) error {
	if s.locked {
		s.one.Lock()
		defer s.one.Unlock()
	}
	return c.write(b)
}

func (c *stdConn) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.Write(b)
	return err
}

func (s *stdServer) broadcast(frame []byte) {
	frame = bytes.Clone(frame)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.conns {
		_ = c.write(frame) // its own goroutine sees the failure
	}
}
