package services_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/services"
	"millrace/services/cachetest"
)

func newMemory(tb testing.TB, cfg services.MemoryConfig) *services.Memory {
	tb.Helper()
	m, err := services.NewMemory(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = m.Stop(background) })
	return m
}

func TestMemory(t *testing.T) {
	increments := 50_000
	if *long {
		increments = 1_000_000
	}
	cachetest.Run(t, cachetest.Config{Increments: increments}, func(t *testing.T) services.Cache {
		return newMemory(t, services.MemoryConfig{})
	})
}

func TestMemoryRefusesOverItsLimits(t *testing.T) {
	m := newMemory(t, services.MemoryConfig{MaxEntries: 3, MaxBytes: 100, MaxLocks: 4, MaxPerOwner: 2, MaxWatches: 1})
	set := func(key string, size int, want error) {
		t.Helper()
		if _, err := m.Set(background, key, make([]byte, size), 0); !errors.Is(err, want) {
			t.Errorf("set %q, %d bytes: got %v, want %v", key, size, err, want)
		}
	}
	set("a", 10, nil)
	set("b", 80, nil)
	set("c", 20, services.ErrCacheFull)
	set("b", 10, nil)
	set("c", 20, nil)
	set("d", 0, services.ErrCacheFull)
	set("c", 78, services.ErrCacheFull)
	set("c", 60, nil)
	if s := m.Stats(); s.Entries != 3 || s.Bytes != 83 || s.Refused != 3 {
		t.Errorf("stats: got %+v", s)
	}
	if _, err := m.Delete(background, "c"); err != nil {
		t.Error(err)
	}
	set("d", 20, nil)

	lock := func(key string, owner services.Owner, want error) {
		t.Helper()
		_, err := m.Lock(key, services.LockOptions{TTL: time.Hour, Wait: time.Hour, Owner: owner}, func(uint64, error) {})
		if !errors.Is(err, want) {
			t.Errorf("lock %q for %v: got %v, want %v", key, owner, err, want)
		}
	}
	lock("a", 1, nil)
	lock("a", 1, nil)
	lock("b", 1, services.ErrCacheFull)
	lock("b", 2, nil)
	lock("c", nil, nil)
	lock("d", nil, services.ErrCacheFull)
	m.Release(1)
	lock("d", nil, nil)

	if _, err := m.Watch("a", nil, func(services.Event) {}); err != nil {
		t.Error(err)
	}
	if _, err := m.Watch("a", nil, func(services.Event) {}); !errors.Is(err, services.ErrCacheFull) {
		t.Errorf("second watch: got %v", err)
	}
}

func TestMemoryEvictsTheLeastRecentlyUsed(t *testing.T) {
	const room = 1000
	m := newMemory(t, services.MemoryConfig{MaxEntries: room, Evict: true})
	key := func(i int) string { return fmt.Sprintf("key-%d", i) }
	for i := range room {
		if _, err := m.Set(background, key(i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	hot := func() (n int) {
		for i := range 100 {
			if _, err := m.Get(background, key(i)); err == nil {
				n++
			}
		}
		return n
	}
	for i := range 2 * room {
		if _, err := m.Set(background, fmt.Sprintf("new-%d", i), nil, 0); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			hot()
		}
	}
	if s := m.Stats(); s.Entries != room || s.Evicted != 2*room {
		t.Errorf("stats: got %+v", s)
	}
	// Chance would keep about 0.9^20 = 12 of them.
	if n := hot(); n < 60 {
		t.Errorf("of 100 hot keys %d stayed, want most", n)
	}
}

func TestMemoryEvictsFromOtherShards(t *testing.T) {
	m := newMemory(t, services.MemoryConfig{MaxEntries: 2, Evict: true})
	for i := range 200 {
		if _, err := m.Set(background, fmt.Sprint(i), nil, 0); err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
	}
}

func TestMemoryStopEndsWaits(t *testing.T) {
	m := newMemory(t, services.MemoryConfig{})
	var mu sync.Mutex
	var errs []error
	for range 3 {
		if _, err := m.Lock("a", services.LockOptions{TTL: time.Hour, Wait: time.Hour}, func(_ uint64, err error) {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := m.Stop(background); err != nil || m.Running() {
			t.Fatalf("stop: %v, running %v", err, m.Running())
		}
	}
	if len(errs) != 3 || errs[0] != nil || !errors.Is(errs[1], services.ErrCacheClosed) || !errors.Is(errs[2], services.ErrCacheClosed) {
		t.Errorf("lock and waits: got %v", errs)
	}
	if _, err := m.Get(background, "a"); !errors.Is(err, services.ErrCacheClosed) {
		t.Errorf("get: got %v", err)
	}
	if s := m.Stats(); s.Entries != 0 || s.Locks != 0 || s.Waits != 0 {
		t.Errorf("stats: got %+v", s)
	}
	if err := m.Start(background); err != nil || !m.Running() {
		t.Errorf("start again: %v", err)
	}
	if _, err := m.Set(background, "a", nil, 0); err != nil {
		t.Error(err)
	}
}

// Under a fake clock, so that exact times can be asked for.
func TestMemoryKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, services.MemoryConfig{})
		start := time.Now()
		var mu sync.Mutex
		var got []string
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s@%v", what, time.Since(start)))
		}
		watch := func(key string) {
			if _, err := m.Watch(key, nil, func(e services.Event) {
				if !e.Present {
					note(key)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		for key, ttl := range map[string]time.Duration{"b": 2 * time.Second, "a": time.Second, "c": time.Hour} {
			watch(key)
			if _, err := m.Set(background, key, nil, ttl); err != nil {
				t.Fatal(err)
			}
		}
		lock := func(name string, ttl, wait time.Duration) {
			if _, err := m.Lock("l", services.LockOptions{TTL: ttl, Wait: wait}, func(token uint64, _ error) {
				note(fmt.Sprint(name, token != 0))
			}); err != nil {
				t.Fatal(err)
			}
		}
		lock("1", 1500*time.Millisecond, 0)
		lock("2", 5*time.Second, time.Minute)
		lock("3", time.Second, 3*time.Second)
		lock("4", time.Second, 10*time.Second)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		want := "[1true@0s a@1s 2true@1.5s b@2s 3false@3s 4true@6.5s c@1h0m0s]"
		if fmt.Sprint(got) != want {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if s := m.Stats(); s.Entries != 0 || s.Locks != 0 || s.Waits != 0 {
			t.Errorf("stats: got %+v", s)
		}
	})
}
