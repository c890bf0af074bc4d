package cluster_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/proctest"
	"millrace/services"
	"millrace/services/cachetest"
	"millrace/services/cluster"
)

var background = context.Background()

var long = flag.Bool("long", false, "run the long form of the soaks")

func TestMain(m *testing.M) {
	if proctest.Play() {
		return
	}
	if role := os.Getenv("MILLRACE_CLUSTER_ROLE"); role != "" {
		child(role, os.Getenv("MILLRACE_CLUSTER_LEASE"))
		return
	}
	goleak.VerifyTestMain(m,
		// gnet, which services links, keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"))
}

func embedded(tb testing.TB) *cluster.Embedded {
	tb.Helper()
	e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.Stop)
	return e
}

func open(tb testing.TB, url string, lease time.Duration, change ...func(*cluster.Config)) *cluster.Cache {
	tb.Helper()
	cfg := cluster.Config{URL: url, Lease: lease}
	for _, fn := range change {
		fn(&cfg)
	}
	c, err := cluster.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.Start(background); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Stop(background); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func TestCache(t *testing.T) {
	srv := embedded(t)
	cachetest.Run(t, cachetest.Config{Increments: 1000, Slack: within}, func(t *testing.T) services.Cache {
		return open(t, srv.URL(), steady)
	})
}

func isDown(err error) bool { return errors.Is(err, services.ErrCacheDown) }

func TestLimits(t *testing.T) {
	srv := embedded(t)
	c := open(t, srv.URL(), steady, func(cfg *cluster.Config) {
		cfg.MaxLocks, cfg.MaxPerOwner, cfg.MaxWatches, cfg.MaxBytes = 3, 2, 1, 100<<10
	})
	lock := func(owner services.Owner, want error) {
		t.Helper()
		if _, err := c.Lock("l", services.LockOptions{TTL: time.Hour, Wait: time.Hour, Owner: owner}, func(uint64, error) {}); !errors.Is(err, want) {
			t.Errorf("lock for %v: got %v, want %v", owner, err, want)
		}
	}
	lock(1, nil)
	lock(1, nil)
	lock(1, services.ErrCacheFull)
	lock(nil, nil)
	lock(nil, services.ErrCacheFull)
	cancel, err := c.Watch("a", nil, func(services.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Watch("a", nil, func(services.Event) {}); !errors.Is(err, services.ErrCacheFull) {
		t.Errorf("second watch: got %v", err)
	}
	cancel()
	full := error(nil)
	for i := 0; i < 20 && full == nil; i++ {
		_, full = c.Set(background, string(rune('a'+i)), make([]byte, 10<<10), 0)
	}
	if !errors.Is(full, services.ErrCacheFull) {
		t.Errorf("200 KiB into 100 KiB: got %v, want ErrCacheFull", full)
	}
	if err := c.Stop(background); err != nil {
		t.Error(err)
	}
	if s := c.Stats(); c.Running() || s.Watches != 0 {
		t.Errorf("after stop: running %v, %+v", c.Running(), s)
	}
	if _, err := c.Get(background, "a"); !errors.Is(err, services.ErrCacheClosed) {
		t.Errorf("get after stop: got %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, cfg := range []cluster.Config{{}, {URL: "x"}, {URL: "http://x"}, {URL: "nats://"}, {URL: "nats://x,"}, {URL: "nats://x", Lease: 1}, {URL: "nats://x", MaxKey: -1}} {
		if _, err := cluster.New(cfg); err == nil {
			t.Errorf("%+v: want an error", cfg)
		}
	}
	c, err := cluster.New(cluster.Config{URL: "nats://hush@127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(background); !isDown(err) || !strings.Contains(err.Error(), "connect to nats://***@127.0.0.1:1:") || c.Running() {
		t.Errorf("start without a server: got %v, running %v", err, c.Running())
	}
}
