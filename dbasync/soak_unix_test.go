//go:build unix

package dbasync

import (
	"flag"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dbasync/internal/pgfault"
	"millrace/dbasync/pgembed"
)

var (
	queries = flag.Int("queries", 2_000_000, "with -long: how many queries TestOutcomesAreTrueBehindAProxyThatCutsAnywhere sends in all")
	routes  = flag.String("routes", "direct,session,transaction", "with -long: the ways to the server that it takes")
)

// TestOutcomesAreTrueBehindAProxyThatCutsAnywhere keeps queries of every form in flight
// while connections are ended at messages that chance picks: those of the DB, and with a
// PgBouncer in between those of its own to the server too.
func TestOutcomesAreTrueBehindAProxyThatCutsAnywhere(t *testing.T) {
	if !*long {
		soak(t, server(t), "direct", 1500)
		return
	}
	srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
	ways := splitNames(*routes)
	for _, route := range ways {
		t.Run(route, func(t *testing.T) { soak(t, srv, route, *queries/len(ways)) })
	}
}

// soak sends n queries, as many of each form.
func soak(t *testing.T, srv *pgembed.Server, route string, n int) {
	admin(t, srv.URL(), faultTables)
	var proxies []*pgfault.Proxy
	to, mode := srv.URL(), ""
	proxied := func() {
		p := pgfault.New(t, hostOf(t, to))
		proxies = append(proxies, p)
		to = atHost(t, to, p.Addr())
	}
	if route != "direct" {
		mode = route
		proxied()
		to = pgBouncerTo(t, srv, to, mode)
	}
	proxied()
	openFor := func(strict bool) *DB {
		return openOn(t, to, func(c *Config) {
			c.PgBouncer, c.Strict, c.Lanes = mode, strict, 2
			c.MinBackoff, c.MaxBackoff = time.Millisecond, 5*time.Millisecond
		})
	}
	chained, strict := openFor(false), openFor(true)
	forms := []string{"chain", "strict", "keyed", "slow", "tx", "batch"}
	var fs []*faults
	began := time.Now()
	for i, form := range forms {
		db := chained
		if form == "strict" {
			db = strict
		}
		f := newFaults(db, form, i)
		f.limit = int64(n / len(forms))
		f.wg.Add(64)
		for range 64 {
			f.insert()
		}
		fs = append(fs, f)
	}
	cuts := cutAnywhere(t, proxies, fs)
	took := time.Since(began)
	present := rowsOf(t, srv.URL())
	for _, f := range fs {
		f.compareWith(t, srv.URL(), present)
	}
	t.Logf("%s: %d queries in %v, %d connections were cut, %d transactions run again",
		route, n, took.Round(time.Second/10), cuts, chained.Stats().TxRetries)
}

// cutAnywhere cuts connections until all of fs have sent what they shall, and waits for
// their last answers.
func cutAnywhere(t *testing.T, proxies []*pgfault.Proxy, fs []*faults) (cuts int) {
	var ended atomic.Bool
	go func() {
		for _, f := range fs {
			f.wg.Wait()
		}
		ended.Store(true)
	}()
	for !ended.Load() {
		p := proxies[rand.N(len(proxies))]
		p.Arm(pgfault.Fault{Dir: pgfault.Direction(rand.N(2)), Index: rand.N(3000),
			Where: pgfault.Where(rand.N(3)), Act: pgfault.Reset + pgfault.Act(rand.N(2))})
		for end := time.Now().Add(time.Second); !ended.Load() && time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, hit := p.Found(); hit {
				cuts++
				break
			}
		}
	}
	return cuts
}
