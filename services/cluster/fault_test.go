package cluster_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/faultproxy"
	"millrace/internal/proctest"
	"millrace/services"
	"millrace/services/cluster"
)

// proxied returns a proxy in front of the server and the URL that goes through it.
func proxied(tb testing.TB, srv *cluster.Embedded) (*faultproxy.Proxy, string) {
	tb.Helper()
	u, err := url.Parse(srv.URL())
	if err != nil {
		tb.Fatal(err)
	}
	p := faultproxy.New(tb, u.Host)
	p.Messages(proctest.NATSMessage)
	u.Host = p.Addr()
	return p, u.String()
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", within, what)
		}
	}
}

func mustLock(tb testing.TB, c services.Cache, key string, o services.LockOptions) uint64 {
	tb.Helper()
	token, err := services.LockAndWait(background, c, key, o)
	if token == 0 || err != nil {
		tb.Fatalf("lock %s: got token %d, %v", key, token, err)
	}
	return token
}

// A name for which a process asked in vain, as its lease ended before the answer came, is not said to be another's.
func TestANameOfNobodyIsNotAnothers(t *testing.T) {
	proxy, url := proxied(t, embedded(t))
	const brief = lease / 4
	c := open(t, url, brief, patient)
	proxy.Stall(faultproxy.Down)
	joined := make(chan error, 1)
	go func() {
		_, err := c.Join(background, "name", time.Millisecond, func() {})
		joined <- err
	}()
	time.Sleep(2 * brief) // how long the fault lasts
	proxy.Heal()
	if err := <-joined; errors.Is(err, cluster.ErrName) || !errors.Is(err, services.ErrCacheDown) {
		t.Errorf("got %v, want ErrCacheDown", err)
	}
}

// A process that is cut off, receives nothing, or gets no notifications of changes while its requests
// are answered, does not consider others dead.
func TestADeafWaiterDoesNotTakeALockThatIsHeld(t *testing.T) {
	srv := embedded(t)
	holder := open(t, srv.URL(), lease)
	type waiter struct {
		name  string
		fault func(*faultproxy.Proxy)
		proxy *faultproxy.Proxy
		token uint64 // the holder's
		lost  atomic.Bool
		got   chan uint64
	}
	waiters := []*waiter{
		{name: "cut", fault: (*faultproxy.Proxy).Cut},
		{name: "stalled", fault: func(p *faultproxy.Proxy) { p.Stall(faultproxy.Both) }},
		{name: "hears nothing", fault: func(p *faultproxy.Proxy) { p.Stall(faultproxy.Down) }},
		{name: "hears no changes", fault: func(p *faultproxy.Proxy) { p.Drop(proctest.Watched) }},
	}
	for _, w := range waiters {
		proxy, url := proxied(t, srv)
		c := open(t, url, lease, patient) // a wait outlasts the fault
		w.proxy, w.got = proxy, make(chan uint64, 1)
		w.token = mustLock(t, holder, w.name, services.LockOptions{TTL: time.Hour, Wait: time.Minute, OnLost: func() { w.lost.Store(true) }})
		if _, err := c.Lock(w.name, services.LockOptions{TTL: time.Hour, Wait: time.Hour}, func(token uint64, _ error) { w.got <- token }); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range waiters {
		w.fault(w.proxy)
	}
	time.Sleep(2 * lease) // how long the faults last
	for _, w := range waiters {
		w.proxy.Heal()
	}
	time.Sleep(2 * lease) // they would have it by now
	for _, w := range waiters {
		t.Run(w.name, func(t *testing.T) {
			select {
			case next := <-w.got:
				t.Fatalf("the waiter got token %d; the holder, with %d, has lost it: %v", next, w.token, w.lost.Load())
			default:
			}
			if ok, err := holder.Unlock(background, w.name, w.token); !ok || err != nil || w.lost.Load() {
				t.Fatalf("unlock: got %v, %v, lost %v", ok, err, w.lost.Load())
			}
			select {
			case next := <-w.got:
				if next <= w.token {
					t.Errorf("got token %d after %d", next, w.token)
				}
			case <-time.After(within):
				t.Error("the waiter was not woken")
			}
		})
	}
}

// The holder unlocks right after a restart of the server: the waiter notices, although its watch
// broke.
func TestAWaiterIsWokenAfterARestart(t *testing.T) {
	dir := t.TempDir()
	start := func() *cluster.Embedded {
		e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Stop)
		return e
	}
	srv := start()
	holder, waiter := open(t, srv.URL(), steady), open(t, srv.URL(), steady, patient) // a wait outlasts the restart
	seen := make(chan services.Event, 16)
	if _, err := waiter.Watch("v", nil, func(e services.Event) { seen <- e }); err != nil {
		t.Fatal(err)
	}
	token := mustLock(t, holder, "l", services.LockOptions{TTL: time.Hour})
	got := make(chan time.Time, 1)
	if _, err := waiter.Lock("l", services.LockOptions{TTL: time.Hour, Wait: time.Hour}, func(uint64, error) { got <- time.Now() }); err != nil {
		t.Fatal(err)
	}
	url := srv.URL()
	srv.Stop()
	if srv = start(); srv.URL() != url {
		t.Fatalf("after the restart: %s, was %s", srv.URL(), url)
	}
	eventually(t, "unlock", func() bool {
		ok, err := holder.Unlock(background, "l", token)
		switch {
		case ok || errors.Is(err, services.ErrCacheUnknown): // then the holder releases it later
			return true
		case err == nil:
			t.Fatal("unlock: the token is not the holder's any more")
		}
		return false
	})
	unlocked := time.Now()
	eventually(t, "set", func() bool { _, err := holder.Set(background, "v", []byte("new"), 0); return err == nil })
	select {
	case at := <-got:
		t.Logf("woken %v after the unlock", at.Sub(unlocked))
	case <-time.After(within):
		t.Fatal("the waiter was not woken")
	}
	select {
	case e := <-seen:
		if string(e.Entry.Value) != "new" {
			t.Errorf("watch: got %+v", e)
		}
	case <-time.After(within):
		t.Error("the watch saw nothing")
	}
	for _, c := range []*cluster.Cache{holder, waiter} { // before the server's cleanup
		if err := c.Stop(background); err != nil {
			t.Error(err)
		}
	}
}

// Who has waited for a lock in vain learns whether somebody else had it, or the servers could not be asked.
func TestAWaitThatEndsInAnOutageIsAnError(t *testing.T) {
	srv := embedded(t)
	p, url := proxied(t, srv)
	a, b := open(t, url, steady), open(t, srv.URL(), steady)
	mustLock(t, b, "held", services.LockOptions{TTL: time.Hour})
	wait := services.LockOptions{TTL: time.Hour, Wait: 300 * time.Millisecond}
	if token, err := services.LockAndWait(background, a, "held", wait); token != 0 || err != nil {
		t.Errorf("a lock of somebody else's: got %d, %v, want neither", token, err)
	}
	p.Cut()
	eventually(t, "the cut is noticed", func() bool { return !a.Running() })
	if token, err := services.LockAndWait(background, a, "free", wait); token != 0 || !isDown(err) {
		t.Errorf("a free lock while cut off: got %d, %v, want ErrCacheDown", token, err)
	}
	p.Heal()
	wait.Wait = within
	mustLock(t, a, "free", wait)
}

// A wait ends when the servers have been away for Config.Timeout, whoever has the lock, and none begins
// until they are back. An outage that is shorter than that costs no wait its place.
func TestAWaitEndsInALongOutage(t *testing.T) {
	srv := embedded(t)
	b := open(t, srv.URL(), steady)
	held := mustLock(t, b, "held", services.LockOptions{TTL: time.Hour})
	long := services.LockOptions{TTL: time.Hour, Wait: time.Hour}
	type result struct {
		token uint64
		err   error
	}
	wait := func(c *cluster.Cache) chan result {
		got := make(chan result, 1)
		if _, err := c.Lock("held", long, func(token uint64, err error) { got <- result{token, err} }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	p, url := proxied(t, srv)
	a := open(t, url, steady, func(cfg *cluster.Config) { cfg.Timeout = time.Second })
	kept := open(t, url, steady, patient)
	ends, stays := wait(a), wait(kept)
	p.Cut()
	select {
	case got := <-ends:
		if got.token != 0 || !isDown(got.err) || errors.Is(got.err, services.ErrCacheUnknown) {
			t.Errorf("the wait: got %d, %v, want ErrCacheDown", got.token, got.err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the wait goes on")
	}
	if _, err := a.Lock("held", long, func(uint64, error) {}); !isDown(err) {
		t.Errorf("a new wait: got %v, want ErrCacheDown", err)
	}
	if s := a.Stats(); s.Waits != 0 {
		t.Errorf("%d waits are left", s.Waits)
	}
	p.Heal()
	eventually(t, "both are back", func() bool { return a.Running() && kept.Running() })
	again := wait(a)
	if ok, err := b.Unlock(background, "held", held); !ok || err != nil {
		t.Fatalf("unlock: got %v, %v", ok, err)
	}
	for range 2 {
		c, got := kept, result{}
		select {
		case got = <-stays:
		case got = <-again:
			c = a
		case <-time.After(time.Minute):
			t.Fatal("a waiter was not woken")
		}
		if got.token == 0 || got.err != nil {
			t.Fatalf("got %d, %v, want the lock", got.token, got.err)
		}
		eventually(t, "unlock", func() bool { ok, _ := c.Unlock(background, "held", got.token); return ok })
	}
}

// A wait ends too when the servers are connected and the store does not answer, as with a full disk.
func TestAWaitEndsWhenTheStoreDoesNotAnswer(t *testing.T) {
	srv := embedded(t)
	p, url := proxied(t, srv)
	a, b := open(t, url, lease, func(cfg *cluster.Config) { cfg.Timeout = time.Second }), open(t, srv.URL(), steady)
	mustLock(t, b, "held", services.LockOptions{TTL: time.Hour})
	got := make(chan error, 1)
	if _, err := a.Lock("held", services.LockOptions{TTL: time.Hour, Wait: time.Hour}, func(_ uint64, err error) { got <- err }); err != nil {
		t.Fatal(err)
	}
	p.Drop(func(m []byte) bool {
		return strings.HasPrefix(string(m), "MSG _INBOX.") || strings.HasPrefix(string(m), "HMSG _INBOX.")
	})
	select {
	case err := <-got:
		if !isDown(err) {
			t.Errorf("got %v, want ErrCacheDown", err)
		}
	case <-time.After(time.Minute):
		t.Error("the wait goes on")
	}
	p.Heal()
}

// A write that failed because the process was cut off is not executed later.
func TestAWriteThatFailedDoesNotHappenLater(t *testing.T) {
	srv := embedded(t)
	p, url := proxied(t, srv)
	a, b := open(t, url, steady), open(t, srv.URL(), steady)
	if _, err := a.Set(background, "k", []byte("first"), 0); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	eventually(t, "the cut is noticed", func() bool { return !a.Running() })
	if _, err := a.Set(background, "k", []byte("failed"), 0); !isDown(err) || errors.Is(err, services.ErrCacheUnknown) {
		t.Errorf("set while cut off: got %v, want a plain ErrCacheDown", err)
	}
	rev, err := b.Set(background, "k", []byte("newer"), 0)
	if err != nil {
		t.Fatal(err)
	}
	p.Heal()
	eventually(t, "it is back", func() bool { _, err := a.Get(background, "k"); return err == nil })
	if e, err := a.Get(background, "k"); string(e.Value) != "newer" || e.Revision != rev || err != nil {
		t.Errorf("got %q, %v, want the newer value", e.Value, err)
	}
	p.Stall(faultproxy.Down)
	if _, err := a.Set(background, "k", []byte("heard"), 0); !errors.Is(err, services.ErrCacheUnknown) {
		t.Errorf("set without an answer: got %v, want ErrCacheUnknown", err)
	}
	p.Heal()
}

// A lock stream that was deleted is refused by those who knew it, and the next
// one's tokens are higher.
func TestALostStreamIsRefusedAndTokensGoOn(t *testing.T) {
	srv := embedded(t)
	a := open(t, srv.URL(), lease)
	var lost atomic.Bool
	token := mustLock(t, a, "l", services.LockOptions{TTL: time.Hour, OnLost: func() { lost.Store(true) }})
	nc, err := nats.Connect(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(background, "KV_millrace_locks"); err != nil {
		t.Fatal(err)
	}
	b := open(t, srv.URL(), lease)
	next := mustLock(t, b, "l", services.LockOptions{TTL: time.Hour, Wait: time.Minute, OnLost: func() {}})
	if !lost.Load() {
		t.Error("a second holder before the first has lost it")
	}
	if next <= token || next >= 1<<53 {
		t.Errorf("got token %d after %d", next, token)
	}
	eventually(t, "the other stream is refused", func() bool {
		_, err := a.Get(background, "x")
		return isDown(err) && strings.Contains(err.Error(), "recreated")
	})
	if err := a.Stop(background); err != nil {
		t.Error(err)
	}
	if err := a.Start(background); err != nil { // the way out
		t.Fatal(err)
	}
	if last := mustLock(t, a, "m", services.LockOptions{TTL: time.Hour}); last <= next {
		t.Errorf("got token %d after %d", last, next)
	}
}

// An older copy of the data is refused.
func TestAnOlderCopyIsRefused(t *testing.T) {
	dir := t.TempDir()
	start := func() *cluster.Embedded {
		e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	srv := start()
	a := open(t, srv.URL(), lease)
	if _, err := a.Set(background, "k", nil, 0); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(dir, "data"))); err != nil {
		t.Fatal(err)
	}
	srv = start()
	eventually(t, "it is back", func() bool { _, err := a.Set(background, "k", nil, 0); return err == nil })
	for range 50 {
		if _, err := a.Set(background, "k", nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	srv.Stop()
	if err := os.RemoveAll(filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	srv = start()
	defer srv.Stop()
	eventually(t, "the older copy is refused", func() bool {
		_, err := a.Set(background, "k", nil, 0)
		return err != nil && strings.Contains(err.Error(), "older copy")
	})
	_ = a.Stop(background)
}
