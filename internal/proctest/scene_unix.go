//go:build unix

package proctest

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/faultproxy"
)

// Scene is a NATS server and processes that reach it through a proxy each, which write notes:
// JSON values on their stdout. A process that is ready, and each step of its work, is a note.
type Scene[N any] struct {
	testing.TB
	URL    string // of the server
	Server *Part
	Procs  []*Part // by place; those that live
	Lease  time.Duration

	proxies []*faultproxy.Proxy // by place
	serve   []string            // the server's role and environment
	mark    func(n *N, who int)
	started int

	reading sync.WaitGroup
	mu      sync.Mutex
	notes   []N // guarded by mu
}

// NewScene starts the server: a process of that role, whose first line is its URL. NATS_PORT
// tells it the port; empty is any. Mark puts into a note whose it is: the number that Join
// has returned.
func NewScene[N any](tb testing.TB, lease time.Duration, mark func(n *N, who int), role string, env ...string) *Scene[N] {
	s := &Scene[N]{TB: tb, Lease: lease, mark: mark, serve: append([]string{role}, env...)}
	s.Serve()
	return s
}

// Serve starts the server anew, at the port that the processes know: somebody else may have
// that for a moment.
func (s *Scene[N]) Serve() {
	s.Helper()
	port := ""
	if u, err := url.Parse(s.URL); err == nil {
		port = u.Port()
	}
	for end := time.Now().Add(time.Minute); ; {
		s.Server = Start(s, s.serve[0], append(slices.Clone(s.serve[1:]), "NATS_PORT="+port)...)
		line, err := s.Server.Out.ReadString('\n')
		if err == nil && strings.HasPrefix(line, "nats://") {
			s.URL = strings.TrimSpace(line)
			return
		}
		if time.Now().After(end) {
			s.Fatalf("NATS server: %q, %v", line, err)
		}
		s.Server.Kill()
	}
}

// Join starts a process of that role in the place of one that has gone, or in one more, and
// returns its number. NATS_URL and NATS_LEASE tell it the server and its lease.
func (s *Scene[N]) Join(place int, role string, env ...string) (who int) {
	s.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		s.Fatal(err)
	}
	if place == len(s.Procs) {
		proxy := faultproxy.New(s, u.Host)
		proxy.Messages(NATSMessage)
		s.proxies, s.Procs = append(s.proxies, proxy), append(s.Procs, nil)
	}
	u.Host = s.proxies[place].Addr()
	who = s.started
	s.started++
	p := Start(s, role, append(slices.Clone(env), "NATS_URL="+u.String(), "NATS_LEASE="+s.Lease.String())...)
	s.Procs[place] = p
	s.reading.Go(func() {
		for in := json.NewDecoder(p.Out); ; {
			var n N
			if in.Decode(&n) != nil {
				return // it has ended
			}
			s.mark(&n, who)
			s.mu.Lock()
			s.notes = append(s.notes, n)
			s.mu.Unlock()
		}
	})
	return who
}

// Until waits for a note.
func (s *Scene[N]) Until(what string, is func(N) bool) {
	s.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		found := slices.ContainsFunc(s.notes, is)
		s.mu.Unlock()
		if found {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("not within a minute: %s", what)
		}
	}
}

// End closes the processes' stdin and returns the notes when all have ended.
func (s *Scene[N]) End() []N {
	for _, p := range s.Procs {
		_ = p.In.Close()
	}
	s.reading.Wait()
	return s.notes
}

// Proxy returns a place's.
func (s *Scene[N]) Proxy(place int) *faultproxy.Proxy { return s.proxies[place] }

// FaultOfLink makes one of five faults, 0 to 4, of a place's connection: it is cut, stalls, is
// half open either way, or is late by delay. The proxy's Heal ends it.
func (s *Scene[N]) FaultOfLink(place, which int, delay time.Duration) {
	p := s.proxies[place]
	switch which {
	case 0:
		p.Cut()
	case 1:
		p.Stall(faultproxy.Both)
	case 2:
		p.Stall(faultproxy.Down)
	case 3:
		p.Stall(faultproxy.Up)
	case 4:
		p.Delay(delay)
	}
}

// Restart kills the server, and starts it anew after that long.
func (s *Scene[N]) Restart(away time.Duration) {
	s.Server.Kill()
	time.Sleep(away) // how long nobody is there
	s.Serve()
}
