package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeServer speaks the frame in this process. Its answer is what a test makes it say, so that it can lie.
type fakeServer struct {
	addr string

	mu    sync.Mutex
	conns []*fakeConn
}

type fakeConn struct {
	net.Conn
	n  int // frames so far, the greeting not counted
	mu sync.Mutex
}

// reply answers frame number n of a connection; it may write what it likes, and close.
type reply func(s *fakeServer, c *fakeConn, handle uint32, body []byte)

func startFake(t *testing.T, answer reply) *fakeServer {
	t.Helper()
	return startFakeOn(t, listenLocal(t), answer)
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func startFakeOn(t *testing.T, l net.Listener, answer reply) *fakeServer {
	s := &fakeServer{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fc := &fakeConn{Conn: c}
			s.mu.Lock()
			s.conns = append(s.conns, fc)
			s.mu.Unlock()
			all.Go(func() { s.serve(fc, answer) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		all.Wait()
	})
	return s
}

func (s *fakeServer) target() Target {
	return Target{Name: "fake", Addr: "tcp://" + s.addr, PID: os.Getpid()}
}

func (s *fakeServer) serve(c *fakeConn, answer reply) {
	defer c.Close()
	head := make([]byte, frameHeader)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head)-keyLen)
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		handle := binary.BigEndian.Uint32(head[4:])
		if handle == handleEcho && bytes.Equal(body, greeting) {
			c.send(handle, body)
			continue
		}
		answer(s, c, handle, body)
		c.n++
	}
}

func (c *fakeConn) send(handle uint32, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.Write(appendFrame(nil, handle, body)) // a failure ends serve's next read
}

func (s *fakeServer) broadcast(body []byte) {
	s.mu.Lock()
	mine := bytes.Clone(body)
	all := append([]*fakeConn(nil), s.conns...)
	s.mu.Unlock()
	for _, c := range all {
		c.send(handleBroadcast, mine)
	}
}

// honest echoes and broadcasts, and refuses the rest.
func honest(s *fakeServer, c *fakeConn, handle uint32, body []byte) {
	switch handle {
	case handleEcho:
		c.send(handle, body)
	case handleBroadcast:
		s.broadcast(body)
	default:
		c.send(handleError, append(binary.BigEndian.AppendUint32([]byte{0, 2}, handle), "no handler"...))
	}
}

// measureFake makes one short run, and a longer one where the machine stood still for
// all of it.
func measureFake(t *testing.T, target Target, spec string) Run {
	t.Helper()
	w, err := ParseWorkload(spec)
	if err != nil {
		t.Fatal(err)
	}
	return measureShortly(t, target, w, timing{50 * time.Millisecond, 150 * time.Millisecond}, 2)
}

func measureShortly(t *testing.T, target Target, w Workload, tm timing, generators int) (r Run) {
	t.Helper()
	for range 4 {
		r = measure(t.Context(), target, w, tm, false, generators)
		if !strings.Contains(r.Error, "no "+w.Unit()+" in ") {
			return r
		}
		t.Log(r.Error)
		tm.length *= 4
	}
	return r
}

func jsonf(format string, args ...any) []byte { return fmt.Appendf(nil, format, args...) }
