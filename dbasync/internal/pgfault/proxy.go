package pgfault

import (
	"net"
	"sync"
	"testing"
	"time"
)

// maxSeen bounds the messages that are noted for Messages, per direction.
const maxSeen = 1 << 16

// Proxy forwards connections to one address. Its methods may be called from any goroutine.
type Proxy struct {
	ln     net.Listener
	target string

	mu     sync.Mutex
	fault  Fault         // guarded by mu
	found  *Message      // where the fault was done; guarded by mu
	count  [2]int        // messages since Arm; guarded by mu
	seen   [2][]Message  // of those, the first maxSeen; guarded by mu
	healed chan struct{} // closed by Heal; guarded by mu
	links  map[*link]bool
	conns  int  // since New; guarded by mu
	ended  bool // guarded by mu
	wg     sync.WaitGroup
}

// New starts a proxy to target (host:port) on a free loopback port; it ends with the test.
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{ln: ln, target: target, links: make(map[*link]bool), healed: make(chan struct{})}
	p.wg.Go(p.accept)
	tb.Cleanup(p.Close)
	return p
}

// Addr is where clients dial, as host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Arm counts from 0 again, forgets what was seen and sets the next fault.
func (p *Proxy) Arm(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.found, p.count = f, nil, [2]int{}
	p.seen = [2][]Message{}
}

// Found returns the message at which the fault was done; false when none has been.
func (p *Proxy) Found() (Message, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		return Message{}, false
	}
	return *p.found, true
}

// Messages returns those of one direction since Arm, at most 65,536, in the order in which
// the proxy came to them.
func (p *Proxy) Messages(d Direction) []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.seen[d]...)
}

// Heal ends all stalls.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.healed)
	p.healed = make(chan struct{})
	for l := range p.links {
		l.stalled = nil
	}
}

// Close resets all connections, takes no new ones, and returns when all goroutines have
// ended. It may be called twice.
func (p *Proxy) Close() {
	_ = p.ln.Close()
	p.mu.Lock()
	p.ended = true
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.reset()
	}
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c.(*net.TCPConn)) })
	}
}

func (p *Proxy) serve(client *net.TCPConn) {
	s, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		client.Close()
		return
	}
	l := newLink(p, client, s.(*net.TCPConn))
	p.mu.Lock()
	l.conn = p.conns
	p.conns++
	p.links[l] = true
	ended := p.ended
	p.mu.Unlock()
	if ended {
		l.reset()
	}
	l.run()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// come counts m; true: the fault is to be done at it, and by nobody else.
func (p *Proxy) come(m Message) (Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	index := p.count[m.Dir]
	p.count[m.Dir]++
	if len(p.seen[m.Dir]) < maxSeen {
		p.seen[m.Dir] = append(p.seen[m.Dir], m)
	}
	if f := p.fault; p.found == nil && f.Act != None && f.Dir == m.Dir && f.Index == index {
		p.found = &m
		return f, true
	}
	return Fault{}, false
}
