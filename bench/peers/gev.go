package main

import (
	"bytes"
	"sync"

	"github.com/Allenxuxu/gev"
	"github.com/Allenxuxu/gev/log"
	"github.com/Allenxuxu/ringbuffer"
)

// serveGev: a protocol that hands over every whole frame that has arrived as one message, whose
// answer gev writes at once.
func serveGev(o options) error {
	log.SetLevel(log.LevelFatal)
	addr, err := freeAddr(o.addr)
	if err != nil {
		return err
	}
	h := &gevServer{conns: make(map[*gev.Connection]struct{})}
	s, err := gev.NewServer(h, gev.Network("tcp"), gev.Address(addr), gev.NumLoops(o.loops), gev.CustomProtocol(gevFrames{}))
	if err != nil {
		return err
	}
	announce(addr) // NewServer listens
	s.Start()
	return nil
}

type gevServer struct {
	mu    sync.RWMutex
	conns map[*gev.Connection]struct{}
}

func (s *gevServer) OnConnect(c *gev.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *gevServer) OnClose(c *gev.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *gevServer) OnMessage(c *gev.Connection, _ any, in []byte) any {
	out, _, err := answer(make([]byte, 0, len(in)), in, s.broadcast)
	if err != nil {
		_ = c.Close()
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (s *gevServer) broadcast(frame []byte) {
	frame = bytes.Clone(frame)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.conns {
		_ = c.Send(frame)
	}
}

// gevFrames takes the whole frames out of gev's buffer.
type gevFrames struct{}

func (gevFrames) UnPacket(c *gev.Connection, b *ringbuffer.RingBuffer) (any, []byte) {
	first, second := b.PeekAll()
	in := first
	if len(second) > 0 {
		in = append(append((*c.UserBuffer())[:0], first...), second...)
		*c.UserBuffer() = in
	}
	used := 0
	for {
		frame, err := next(in[used:])
		if err != nil {
			_ = c.Close()
			b.RetrieveAll()
			return nil, nil
		}
		if frame == nil {
			break
		}
		used += len(frame)
	}
	if used > 0 {
		b.Retrieve(used)
	}
	return nil, in[:used]
}

func (gevFrames) Packet(_ *gev.Connection, data any) []byte { return data.([]byte) }
