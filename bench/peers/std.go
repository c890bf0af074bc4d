package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// stdServer uses the standard library: a goroutine for each connection, one write for each read. A
// broadcast is written by the goroutine that received it. With -door tls it also serves crypto/tls.
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
	s.conns = make(map[*stdConn]struct{})
	urls := []string{"tcp://" + l.Addr().String()}
	if o.opens("tls") {
		secure, err := s.listenTLS(o)
		if err != nil {
			return err
		}
		urls = append(urls, "tls://"+secure.Addr().String())
		go func() {
			if err := s.accept(secure); err != nil {
				fmt.Fprintln(os.Stderr, "peers: std:", err)
				os.Exit(1)
			}
		}()
	}
	announceAll(urls...)
	return s.accept(l)
}

func (s *stdServer) listenTLS(o options) (net.Listener, error) {
	cert, err := selfSigned()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert.cert, cert.key)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", o.addr, &tls.Config{Certificates: []tls.Certificate{pair}})
}

func (s *stdServer) accept(l net.Listener) error {
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
	if secure, ok := c.Conn.(*tls.Conn); ok && handshake(secure) != nil {
		return
	}
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

// handshake has a timeout of five seconds.
func handshake(c *tls.Conn) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if err := c.Handshake(); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
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
