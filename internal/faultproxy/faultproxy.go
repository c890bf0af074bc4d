// Package faultproxy is a TCP proxy for tests that can cut, delay, stall and
// half-open the connections that go through it, each direction by itself.
//
//	p := faultproxy.New(t, "127.0.0.1:4222")
//	dial(p.Addr())
//	p.Stall(faultproxy.Up)
//	p.Heal()
package faultproxy

import (
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
	ended bool
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// New starts a proxy to target on a free loopback port; it ends with the test.
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

// Addr is where clients dial, as host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Cut ends all connections with a reset, and new ones until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.reset()
}

// Stall lets nothing through in the given directions until Heal; what is sent
// meanwhile is kept and goes through then. With Down alone the connections are
// half open: the server hears, the client doesn't.
func (p *Proxy) Stall(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stall = d
}

// Delay holds each piece back for d, in both directions, until Heal.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Heal ends all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.stall, p.delay = false, 0, 0
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

// reset ends all connections. p.mu is held.
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

// copy forwards one direction until either end has gone.
func (p *Proxy) copy(to, from net.Conn, d Direction) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.hold(d)
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold waits while the direction is stalled, and for the delay.
func (p *Proxy) hold(d Direction) {
	p.mu.Lock()
	for p.stall&d != 0 && !p.ended {
		p.wake.Wait()
	}
	delay := p.delay
	p.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay) // the fault itself
	}
}
