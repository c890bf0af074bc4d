package main

import (
	"bytes"
	"context"
	"net"
	"sync"

	"github.com/panjf2000/gnet/v2"
)

// gnetServer is raw gnet: frames are parsed in OnTraffic, the answers of one batch leave in one
// Write. A broadcast is one task per loop that writes to each of its connections.
type gnetServer struct {
	gnet.BuiltinEventEngine
	engine gnet.Engine
	addr   string

	each   bool // a Write for each echo: the planted mistake that the suite must see
	joined bool // broadcasts that wait leave as one write for each connection

	loopsMu sync.Mutex // guards the slice; a loop's other fields are its own
	loops   []*gnetLoop
}

// gnetLoop is what one event loop owns. OnOpen puts it in the connection's context.
type gnetLoop struct {
	loop  gnet.EventLoop
	conns map[gnet.Conn]struct{}
	out   []byte

	castMu  sync.Mutex // guards what follows
	casts   []byte
	waiting bool // a task is on its way
}

func serveGnet(o options) error          { return (&gnetServer{}).run(o) }
func serveGnetEach(o options) error      { return (&gnetServer{each: true}).run(o) }
func serveGnetCastBatch(o options) error { return (&gnetServer{joined: true}).run(o) }

// gnetOptions: 64 KiB a read (16 KiB triples the cost of 4 KiB frames); a listener for each loop.
func gnetOptions(o options) []gnet.Option {
	return []gnet.Option{
		gnet.WithNumEventLoop(o.loops), gnet.WithReadBufferCap(readBuffer), gnet.WithReusePort(true),
		gnet.WithLogger(quiet{}),
	}
}

func (s *gnetServer) run(o options) error {
	addr, err := freeAddr(o.addr) // every loop must bind the same port
	if err != nil {
		return err
	}
	s.addr = addr
	return gnet.Run(s, "tcp://"+addr, gnetOptions(o)...)
}

func (s *gnetServer) OnBoot(eng gnet.Engine) gnet.Action {
	s.engine = eng
	announce(s.addr)
	return gnet.None
}

func announce(addr string) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err == nil {
		ready(a)
	}
}

func (s *gnetServer) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	l := s.loopOf(c.EventLoop())
	l.conns[c] = struct{}{}
	c.SetContext(l)
	return nil, gnet.None
}

func (s *gnetServer) loopOf(el gnet.EventLoop) *gnetLoop {
	s.loopsMu.Lock()
	defer s.loopsMu.Unlock()
	for _, l := range s.loops {
		if l.loop == el {
			return l
		}
	}
	l := &gnetLoop{loop: el, conns: make(map[gnet.Conn]struct{})}
	s.loops = append(s.loops, l)
	return l
}

func (s *gnetServer) OnClose(c gnet.Conn, _ error) gnet.Action {
	if l, ok := c.Context().(*gnetLoop); ok {
		delete(l.conns, c)
	}
	return gnet.None
}

func (s *gnetServer) OnTraffic(c gnet.Conn) gnet.Action {
	l := c.Context().(*gnetLoop)
	in, err := c.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	if s.each {
		return s.oneByOne(c, in)
	}
	out, used, err := answer(l.out[:0], in, s.broadcast)
	l.out = out
	if used > 0 {
		_, _ = c.Discard(used)
	}
	if len(out) > 0 {
		_, _ = c.Write(out) // a failure reaches OnClose
	}
	if err != nil {
		return gnet.Close
	}
	return gnet.None
}

// oneByOne is the mistake: a system call for each frame.
func (s *gnetServer) oneByOne(c gnet.Conn, in []byte) gnet.Action {
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
		if _, _, err := answer(nil, frame, s.broadcast); err != nil {
			return gnet.Close
		}
		if frame[7] != castHandle&0xff {
			_, _ = c.Write(frame)
		}
	}
	if used > 0 {
		_, _ = c.Discard(used)
	}
	return gnet.None
}

// broadcast runs on the sender's loop.
func (s *gnetServer) broadcast(frame []byte) {
	frame = bytes.Clone(frame)
	s.loopsMu.Lock()
	loops := s.loops
	s.loopsMu.Unlock()
	for _, l := range loops {
		if s.joined {
			l.join(frame)
			continue
		}
		_ = l.loop.Execute(context.Background(), task(func() { l.writeAll(frame) }))
	}
}

// join adds frame to what the loop's next task writes.
func (l *gnetLoop) join(frame []byte) {
	l.castMu.Lock()
	l.casts = append(l.casts, frame...)
	first := !l.waiting
	l.waiting = true
	l.castMu.Unlock()
	if first {
		_ = l.loop.Execute(context.Background(), task(func() {
			l.castMu.Lock()
			b := l.casts
			l.casts, l.waiting = nil, false
			l.castMu.Unlock()
			l.writeAll(b)
		}))
	}
}

func (l *gnetLoop) writeAll(b []byte) {
	for c := range l.conns {
		_, _ = c.Write(b)
	}
}

type task func()

func (t task) Run(context.Context) error {
	t()
	return nil
}

// quiet is gnet's logger without output.
type quiet struct{}

func (quiet) Debugf(string, ...any) {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Warnf(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}
