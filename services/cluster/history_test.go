package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services"
	"millrace/services/cluster"
)

// A history is what holders of one lock saw, on one monotonic clock.
type history struct {
	mu     sync.Mutex
	events []event
}

// event is one look of a holder at its lock, begun at from. Given: it has just
// got it, at to.
type event struct {
	who      int
	token    uint64
	given    bool
	from, to time.Time
}

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// check returns what is wrong: a token that was given twice or below one that had
// been given before it was asked for, or a holder that took a lock for its own
// after it had been given to the next.
func (h *history) check() error {
	var given []event
	for _, e := range h.events {
		if e.given {
			given = append(given, e)
		}
	}
	slices.SortFunc(given, func(a, b event) int { return a.to.Compare(b.to) })
	for i, g := range given {
		for _, later := range given[i+1:] {
			if later.token == g.token || later.token < g.token && later.from.After(g.to) {
				return fmt.Errorf("token %d of %d after %d of %d", later.token, later.who, g.token, g.who)
			}
		}
		for _, e := range h.events {
			if e.token < g.token && e.from.After(g.to) {
				return fmt.Errorf("%d holds token %d at %v, and %d has had %d since %v", e.who, e.token, e.from, g.who, g.token, g.to)
			}
		}
	}
	return nil
}

// user takes the lock again and again, and looks at it while it has it.
func user(ctx context.Context, c *cluster.Cache, who int, h *history) {
	for ctx.Err() == nil {
		from := time.Now()
		token, err := services.LockAndWait(ctx, c, "l", services.LockOptions{TTL: time.Minute, Wait: time.Minute})
		if err != nil || token == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		h.add(event{who: who, token: token, given: true, from: from, to: time.Now()})
		hold := time.Now().Add(rand.N(800 * time.Millisecond))
		for time.Now().Before(hold) {
			from := time.Now()
			if !c.Holds("l", token) {
				break
			}
			h.add(event{who: who, token: token, from: from})
			time.Sleep(2 * time.Millisecond) // between looks
		}
		_, _ = c.Unlock(context.WithoutCancel(ctx), "l", token)
	}
}

// run is one history: three users, each behind a proxy, random faults.
func run(t *testing.T, seed uint64, length time.Duration) (*history, int) {
	const lease = 300 * time.Millisecond
	r := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h := &history{}
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	var users sync.WaitGroup
	var proxies []*faultproxy.Proxy
	var caches []*cluster.Cache
	for who := range 3 {
		p, url := proxied(t, srv)
		proxies = append(proxies, p)
		c := open(t, url, lease, func(c *cluster.Config) { c.Timeout = 900 * time.Millisecond })
		caches = append(caches, c)
		users.Go(func() { user(ctx, c, who, h) })
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		p := proxies[r.IntN(len(proxies))]
		switch r.IntN(6) {
		case 0:
			p.Cut()
		case 1:
			p.Stall(faultproxy.Both)
		case 2:
			p.Stall(faultproxy.Down)
		case 3:
			p.Stall(faultproxy.Up)
		case 4:
			p.Delay(time.Duration(r.IntN(100)) * time.Millisecond)
		case 5:
			srv.Stop()
			if srv, err = cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(r.IntN(1200)) * time.Millisecond) // how long the fault lasts
		p.Heal()
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
	}
	cancel()
	users.Wait()
	for _, c := range caches {
		_ = c.Stop(background)
	}
	srv.Stop()
	n := 0
	for _, e := range h.events {
		if e.given {
			n++
		}
	}
	return h, n
}

// Under cuts, stalls, half-open connections, delays and restarts of the server.
func TestHistoriesHaveOneHolderAtATime(t *testing.T) {
	runs := 2
	if *long {
		runs = 40
	}
	if os.Getenv("MILLRACE_CLUSTER_RUNS") != "" {
		_, _ = fmt.Sscan(os.Getenv("MILLRACE_CLUSTER_RUNS"), &runs)
	}
	for seed := range runs {
		h, given := run(t, uint64(seed), 4*time.Second)
		if err := h.check(); err != nil {
			t.Fatalf("run %d: %v", seed, err)
		}
		if given < 2 {
			t.Errorf("run %d: the lock was given %d times", seed, given)
		}
		t.Logf("run %d: given %d times, %d looks", seed, given, len(h.events))
	}
}
