package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"millrace/codec"
	"millrace/internal/faultproxy"
	"millrace/services/client"
)

// pairs is how many there are.
const pairs = 3

// grace is how long a session waits for its client, the server's --resume.
const grace = 20 * time.Second

// pair is a client that tells a group of one member what it counts, and that member. Both go
// on with their sessions over connections that break. What the one was told has been sent
// comes to the other once and in order, as long as the other's session lasts.
type pair struct {
	s     *soak
	group string
	proxy *faultproxy.Proxy // between both and the server
	addrs [2]string         // of the teller and the member

	mu      sync.Mutex
	next    int          // guarded by mu; the next number
	lost    map[int]bool // guarded by mu; numbers that may not have been sent
	last    int          // guarded by mu; the last number that came to the member's session; 0: none
	present bool         // guarded by mu; the member is there
	telling bool         // guarded by mu; the teller is there
}

func (s *soak) newPair(i int) *pair {
	proxy := faultproxy.New(s, s.at.host)
	s.proxies = append(s.proxies, proxy)
	ways := [pairs][2]string{{"tcp://", "tcp://"}, {"tls://", "wss://"}, {"ws://", "tls://"}}[i%pairs]
	return &pair{s: s, group: fmt.Sprint("pair ", i), proxy: proxy, addrs: [2]string{ways[0] + proxy.Addr(), ways[1] + proxy.Addr()}, lost: map[int]bool{}}
}

// dial connects one of the pair. The context of the visit ends the wait for the first connection.
func (p *pair) dial(v *visit, which int, cfg client.Config) *client.Client {
	cfg.Addrs, cfg.TLS, cfg.Resume, cfg.Heartbeat = []string{p.addrs[which]}, anyCert, grace, 5*time.Second
	cfg.MaxBackoff = 500 * time.Millisecond
	c, err := client.Dial(v.shut, cfg)
	if err != nil {
		v.noService.Add(1)
		return nil
	}
	return c
}

// finish ends a client and counts what it went through.
func (p *pair) finish(v *visit, c *client.Client) {
	connects, _ := c.Stats()
	v.reconnects.Add(connects - 1)
	v.resumed.Add(c.ResumeStats().Resumed)
	c.Close()
}

// tells sends numbers to the group until the gate shuts, and then until the member has had the
// last one.
func (p *pair) tells(v *visit) {
	p.set(&p.telling, true)
	defer p.set(&p.telling, false)
	c := p.dial(v, 0, client.Config{OnLost: func(err error) { v.end(endOf(err)) }})
	if c == nil {
		return
	}
	defer p.finish(v, c)
	for !v.over() {
		p.tell(v, c)
		v.pause(v.some(10 * time.Millisecond))
	}
	for end := time.Now().Add(patience / 2); !p.heard(p.tell(v, c), time.Second); {
		if v.srv.died.Load() {
			return // it may be the next one's session by now, which nobody has joined
		}
		if time.Now().After(end) {
			v.violation("%s: the member does not get what it is sent", p.group)
			return
		}
	}
}

// tell sends one number and returns it.
func (p *pair) tell(v *visit, c *client.Client) int {
	p.mu.Lock()
	p.next++
	n := p.next
	p.lost[n] = true // until it is known
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v.requests.Add(1)
	var answer struct{ Sent int }
	err := ask(ctx, c, client.Handle(1, 7), map[string]string{"group": p.group, "data": fmt.Sprint(n)}, &answer)
	if e := (*client.Error)(nil); errors.As(err, &e) {
		v.refuse(e.Code)
		return n
	} else if err != nil {
		v.unknown.Add(1)
		if !errors.Is(err, client.ErrLost) {
			v.violation("%s: %v", p.group, err)
		}
		return n
	}
	v.answers.Add(1)
	if answer.Sent > 0 {
		p.mu.Lock()
		delete(p.lost, n)
		p.mu.Unlock()
	}
	return n
}

// heard says whether the member has had n, or gets it within the time given, or is not there.
func (p *pair) heard(n int, within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		ok := p.last >= n || !p.present
		p.mu.Unlock()
		if ok || time.Now().After(end) {
			return ok
		}
	}
}

// listens is the member. It stays until the teller has finished.
func (p *pair) listens(v *visit) {
	c := p.dial(v, 1, client.Config{
		OnConnect: func(ctx context.Context, c *client.Client) error {
			p.mu.Lock()
			p.last = 0 // of the session before
			p.mu.Unlock()
			c.On(client.Handle(1, 8), func(f codec.Packet) { p.take(v, f) })
			return ask(ctx, c, client.Handle(1, 5), map[string]string{"group": p.group}, &struct{}{})
		},
		OnLost: func(err error) { v.end(endOf(err)) },
	})
	if c == nil {
		return
	}
	defer p.finish(v, c)
	p.set(&p.present, true)
	defer p.set(&p.present, false)
	<-v.shut.Done()
	for telling := true; telling; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		telling = p.telling
		p.mu.Unlock()
	}
}

// set sets one of the pair's fields.
func (p *pair) set(field *bool, to bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*field = to
}

// take notes what the member is told.
func (p *pair) take(v *visit, f codec.Packet) {
	var push struct{ Data string }
	n := 0
	if err := json.Unmarshal(f.Body, &push); err == nil {
		_, _ = fmt.Sscan(push.Data, &n)
	}
	v.pushes.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case n == 0 || n <= p.last:
		p.s.violation("%s: %.60q came behind %d", p.group, f.Body, p.last)
	case p.last != 0:
		for missing := p.last + 1; missing < n; missing++ {
			if !p.lost[missing] {
				p.s.violation("%s: %d never came, %d came behind %d", p.group, missing, n, p.last)
			}
		}
	}
	p.last = n
}

// endOf names the end of a connection or a session.
func endOf(err error) string {
	switch {
	case errors.Is(err, client.ErrGoAway):
		return "GOAWAY"
	case errors.Is(err, client.ErrSession):
		return "session lost"
	}
	return "connection lost"
}
