package main

import (
	"sync"

	"github.com/tidwall/evio"
)

// serveEvio: the answers of a read are returned from Data. A broadcast waits in each connection's context and
// leaves when evio wakes it.
func serveEvio(o options) error {
	addr, err := freeAddr(o.addr)
	if err != nil {
		return err
	}
	s := &evioServer{conns: make(map[evio.Conn]*evioConn)}
	return evio.Serve(evio.Events{
		NumLoops: o.loops, LoadBalance: evio.RoundRobin,
		Serving: func(evio.Server) evio.Action { announce(addr); return evio.None },
		Opened: func(c evio.Conn) ([]byte, evio.Options, evio.Action) {
			s.open(c)
			return nil, evio.Options{ReuseInputBuffer: true}, evio.None
		},
		Closed: func(c evio.Conn, _ error) evio.Action {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			return evio.None
		},
		Data: s.data,
	}, "tcp://"+addr)
}

type evioServer struct {
	mu    sync.RWMutex
	conns map[evio.Conn]*evioConn
}

type evioConn struct {
	held []byte // part of a frame; its loop's

	mu    sync.Mutex
	casts []byte // guarded by mu
}

func (s *evioServer) open(c evio.Conn) {
	ec := &evioConn{}
	c.SetContext(ec)
	s.mu.Lock()
	s.conns[c] = ec
	s.mu.Unlock()
}

func (s *evioServer) data(c evio.Conn, in []byte) ([]byte, evio.Action) {
	ec := c.Context().(*evioConn)
	if len(ec.held) > 0 {
		ec.held = append(ec.held, in...)
		in = ec.held
	}
	out, used, err := answer(nil, in, s.broadcast) // evio keeps out
	if err != nil {
		return out, evio.Close
	}
	ec.held = append(ec.held[:0], in[used:]...)
	ec.mu.Lock()
	out = append(out, ec.casts...)
	ec.casts = ec.casts[:0]
	ec.mu.Unlock()
	return out, evio.None
}

func (s *evioServer) broadcast(frame []byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c, ec := range s.conns {
		ec.mu.Lock()
		ec.casts = append(ec.casts, frame...)
		ec.mu.Unlock()
		c.Wake()
	}
}
