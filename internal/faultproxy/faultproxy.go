// Package faultproxy is a TCP proxy for tests that can cut, delay, stall and half-open the
// connections through it, separately in each direction, and drop single messages of a server.
//
//	p := faultproxy.New(t, "127.0.0.1:4222")
//	dial(p.Addr())
//	p.Stall(faultproxy.Up)
//	p.Heal()
package faultproxy

import (
	"bufio"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is from the client to the server (Up), back (Down), or both.
type Direction int

// Directions.
const (
	Up Direction = 1 << iota
	Down
	Both = Up | Down
)

// Proxy forwards connections to one address. Its methods may be called from any
// goroutine.
type Proxy struct {
	ln     net.Listener
	target string

	mu    sync.Mutex
	wake  *sync.Cond
	cut   bool
	stall Direction
	delay time.Duration
	split bufio.SplitFunc
	lost  func(message []byte) bool
	ended bool
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// New starts a proxy to target on a free loopback port; it stops with the test.
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{ln: ln, target: target, conns: map[net.Conn]struct{}{}}
	p.wake = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// Addr returns the address to dial, as host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Cut resets all connections, and new ones until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.reset()
}

// Stall stops forwarding in the given directions until Heal; data sent meanwhile is kept and
// forwarded then. With Down only, connections are half open: the server receives, the client does
// not.
func (p *Proxy) Stall(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stall = d
}

// Delay delays each piece of data by d, in both directions, until Heal.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Messages splits what servers send into messages, as needed for Drop. It applies to connections
// made afterwards. An error of split ends a connection.
func (p *Proxy) Messages(split bufio.SplitFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.split = split
}

// Drop drops the servers' messages for which lost returns true, until Heal; all others are
// forwarded. Each connection's goroutine calls lost, which must not keep the message.
func (p *Proxy) Drop(lost func(message []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = lost
}

// Heal ends all faults. Dropped messages stay lost.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.stall, p.delay, p.lost = false, 0, 0, nil
	p.wake.Broadcast()
}

func (p *Proxy) close() {
	_ = p.ln.Close()
	p.mu.Lock()
	p.ended = true
	p.reset()
	p.wake.Broadcast()
	p.mu.Unlock()
	p.wg.Wait()
}

// reset resets all connections. p.mu is held.
func (p *Proxy) reset() {
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		if !p.add(c) {
			continue
		}
		p.wg.Go(func() { p.forward(c) })
	}
}

func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.ended {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) forward(client net.Conn) {
	defer p.drop(client)
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil || !p.add(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client, Up) })
	p.copy(client, server, Down)
	both.Wait()
}

// copy forwards one direction until either end closes.
func (p *Proxy) copy(to, from net.Conn, d Direction) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	p.mu.Lock()
	s := sieve{split: p.split}
	p.mu.Unlock()
	for {
		n, err := from.Read(buf)
		if n > 0 {
			piece, lost := buf[:n], p.hold(d)
			if d == Down && s.split != nil {
				var err error
				if piece, err = s.sift(piece, lost); err != nil {
					return
				}
			}
			if _, err := to.Write(piece); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold waits while the direction is stalled, and for the delay. It returns the current function of
// Drop.
func (p *Proxy) hold(d Direction) (lost func([]byte) bool) {
	p.mu.Lock()
	for p.stall&d != 0 && !p.ended {
		p.wake.Wait()
	}
	delay, lost := p.delay, p.lost
	p.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay) // the fault itself
	}
	return lost
}

// sieve holds the incomplete message of a connection's server.
type sieve struct {
	split bufio.SplitFunc
	rest  []byte // the beginning of a message
	keep  []byte
}

// sift returns the messages completed by piece that are not lost. They are valid until the next
// call.
func (s *sieve) sift(piece []byte, lost func([]byte) bool) ([]byte, error) {
	s.keep = s.keep[:0]
	all := append(s.rest, piece...)
	at := 0
	for at < len(all) {
		n, message, err := s.split(all[at:], false)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		if lost == nil || !lost(message) {
			s.keep = append(s.keep, all[at:at+n]...)
		}
		at += n
	}
	s.rest = append(all[:0], all[at:]...)
	return s.keep, nil
}
