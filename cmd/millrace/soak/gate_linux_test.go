package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// gate lets clients in while it is open. Its methods may be called from any goroutine.
type gate struct {
	mu     sync.Mutex
	change *sync.Cond
	inside int                // guarded by mu
	over   bool               // guarded by mu; it never opens again
	shut   context.Context    // guarded by mu; ended while it is shut
	doShut context.CancelFunc // guarded by mu
}

func newGate() *gate {
	g := &gate{}
	g.change = sync.NewCond(&g.mu)
	g.shut, g.doShut = context.WithCancel(context.Background())
	g.doShut()
	return g
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut.Err() != nil {
		g.shut, g.doShut = context.WithCancel(context.Background())
		g.change.Broadcast()
	}
}

// close has those inside finish and waits until they have left; false: some have not.
func (g *gate) close(within time.Duration) bool {
	end := time.Now().Add(within)
	late := time.AfterFunc(within+time.Millisecond, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.change.Broadcast()
	})
	defer late.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doShut()
	for g.inside > 0 && time.Now().Before(end) {
		g.change.Wait()
	}
	return g.inside == 0
}

// end lets nobody in any more.
func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.doShut()
	g.change.Broadcast()
}

// enter waits until the gate is open. ctx ends when it shuts; nil: it is over.
func (g *gate) enter() (ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut.Err() != nil && !g.over {
		g.change.Wait()
	}
	if g.over {
		return nil
	}
	g.inside++
	return g.shut
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.change.Broadcast()
}

// tally counts what clients of one kind did. Its fields may be added to from any goroutine.
type tally struct {
	name                                   string
	visits, requests, answers, unknown     atomic.Uint64
	pushes, reconnects, resumed, noService atomic.Uint64

	mu      sync.Mutex
	refused map[string]uint64 // guarded by mu; by ERROR code
	ends    map[string]uint64 // guarded by mu; how connections ended
}

func (t *tally) refuse(code uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused[fmt.Sprint(code)]++
}

func (t *tally) end(how string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ends[how]++
}

// visit is a client of a kind between its entrance and its exit.
type visit struct {
	*soak
	*tally
	r    *rand.Rand
	shut context.Context // it should finish
	srv  *server         // the one that was there when it came
}

// pause waits, unless the client should finish.
func (v *visit) pause(d time.Duration) {
	select {
	case <-v.shut.Done():
	case <-time.After(d):
	}
}

// over says whether the client should finish.
func (v *visit) over() bool { return v.shut.Err() != nil }

// some is a duration between none and d.
func (v *visit) some(d time.Duration) time.Duration { return time.Duration(v.r.Int64N(int64(d))) }

// join adds n clients of a kind, each of which visits again and again until the gate is over.
func (s *soak) join(name string, n int, run func(*visit)) {
	t := &tally{name: name, refused: map[string]uint64{}, ends: map[string]uint64{}}
	s.tallies = append(s.tallies, t)
	for i := range n {
		r := rand.New(rand.NewPCG(s.seed, uint64(len(s.tallies))<<32|uint64(i)))
		s.clients.Go(func() {
			for {
				shut := s.gate.enter()
				if shut == nil {
					return
				}
				v := &visit{soak: s, tally: t, r: r, shut: shut, srv: s.server()}
				t.visits.Add(1)
				run(v)
				v.pause(time.Millisecond + v.some(20*time.Millisecond))
				s.gate.leave()
			}
		})
	}
}
