// Package cachetest is a test suite for implementations of services.Cache.
//
//	func TestMyCache(t *testing.T) {
//		cachetest.Run(t, cachetest.Config{}, func(t *testing.T) services.Cache { … })
//	}
//
// open returns a started cache, empty or not: every test uses keys of its own.
// The tests run one after the other; times are checked with Config.Slack.
package cachetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/services"
)

// Config sets the extent of the tests.
type Config struct {
	// Increments is the number of CompareAndSet increments; default 20,000.
	Increments int
	// Slack is the tolerance for times; default 10 s.
	Slack time.Duration
}

// suite is a run with one cache.
type suite struct {
	*testing.T
	c   services.Cache
	cfg Config
}

var background = context.Background()

// Run runs the suite.
func Run(t *testing.T, cfg Config, open func(t *testing.T) services.Cache) {
	if cfg.Increments == 0 {
		cfg.Increments = 20000
	}
	if cfg.Slack == 0 {
		cfg.Slack = 10 * time.Second
	}
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"set, get, delete", (*suite).values},
		{"odd keys and values", (*suite).oddKeys},
		{"limits", (*suite).limits},
		{"compare and set", (*suite).compareAndSet},
		{"compare and set by revision", (*suite).byRevision},
		{"compare and set with an equality", (*suite).byFunc},
		{"values expire", (*suite).expiry},
		{"increments lose nothing", (*suite).increments},
		{"watch sees changes in order", (*suite).watch},
		{"watch sees expiry, and nothing after cancel", (*suite).watchEnds},
		{"lock excludes", (*suite).lockBasics},
		{"lock waits", (*suite).lockWaits},
		{"lock ends with its ttl", (*suite).lockTTL},
		{"wait ends in time", (*suite).waitEnds},
		{"wait can be cancelled", (*suite).waitCancelled},
		{"release frees locks and waits", (*suite).release},
		{"what was released before it was told is not", (*suite).releasedUntold},
		{"a full submitter gets it later", (*suite).fullSubmitter},
		{"a closed submitter gives it back", (*suite).closedSubmitter},
		{"never two holders", (*suite).exclusion},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(&suite{T: t, c: open(t), cfg: cfg}) })
	}
}

// key returns a key that no other test uses.
func (s *suite) key(name string) string {
	return fmt.Sprintf("%s/%d/%s", s.Name(), time.Now().UnixNano(), name)
}

func (s *suite) get(key, want string, present bool) services.Entry {
	s.Helper()
	e, err := s.c.Get(background, key)
	switch {
	case !present && !errors.Is(err, services.ErrNotFound):
		s.Fatalf("get %q: got %q, %v, want ErrNotFound", key, e.Value, err)
	case present && (err != nil || string(e.Value) != want || e.Revision == 0):
		s.Fatalf("get %q: got %q (revision %d), %v, want %q", key, e.Value, e.Revision, err, want)
	}
	return e
}

func (s *suite) set(key, val string, ttl time.Duration) uint64 {
	s.Helper()
	rev, err := s.c.Set(background, key, []byte(val), ttl)
	if err != nil || rev == 0 {
		s.Fatalf("set %q: revision %d, %v", key, rev, err)
	}
	return rev
}

func (s *suite) values() {
	k := s.key("a")
	s.get(k, "", false)
	buf := []byte("one")
	rev1, err := s.c.Set(background, k, buf, 0)
	if err != nil {
		s.Fatal(err)
	}
	copy(buf, "two") // the cache keeps a copy
	if e := s.get(k, "one", true); e.Revision != rev1 {
		s.Errorf("revision: got %d, want %d", e.Revision, rev1)
	}
	if rev2 := s.set(k, "two", 0); rev2 <= rev1 {
		s.Errorf("revision of the second set: got %d, want more than %d", rev2, rev1)
	}
	s.get(k, "two", true)
	for _, want := range []bool{true, false} {
		if ok, err := s.c.Delete(background, k); ok != want || err != nil {
			s.Errorf("delete: got %v, %v, want %v", ok, err, want)
		}
		s.get(k, "", false)
	}
}

func (s *suite) oddKeys() {
	base := s.key("k")
	for _, k := range []string{"", base + " with spaces", base + ".*.>", base + "\x00\xff\xfe", base + "日本", base + "/a//b/"} {
		_, _ = s.c.Delete(background, k)
		s.get(k, "", false)
		s.set(k, "v"+k, 0)
		s.get(k, "v"+k, true)
	}
	k := base + "empty"
	s.set(k, "", 0)
	s.get(k, "", true)
	if ok, _, err := s.c.CompareAndSet(background, k, []byte{}, []byte("x"), 0); !ok || err != nil {
		s.Errorf("an empty value is a value: got %v, %v", ok, err)
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	s.set(k, string(all), 0)
	s.get(k, string(all), true)
}

func (s *suite) limits() {
	long := strings.Repeat("k", 1<<16)
	if _, err := s.c.Set(background, long, nil, 0); !errors.Is(err, services.ErrCacheKey) {
		s.Errorf("a key of 64 KiB: got %v, want ErrCacheKey", err)
	}
	if _, err := s.c.Lock(long, services.LockOptions{TTL: time.Second}, nil); !errors.Is(err, services.ErrCacheKey) {
		s.Errorf("a lock's name of 64 KiB: got %v, want ErrCacheKey", err)
	}
	if _, err := s.c.Set(background, s.key("v"), make([]byte, 8<<20), 0); !errors.Is(err, services.ErrCacheKey) {
		s.Errorf("a value of 8 MiB: got %v, want ErrCacheKey", err)
	}
	for _, o := range []services.LockOptions{{}, {TTL: -1}, {TTL: time.Second, Wait: -1}} {
		if _, err := s.c.Lock(s.key("l"), o, nil); err == nil {
			s.Errorf("lock with %+v: want an error", o)
		}
	}
}

func (s *suite) cas(key string, expect []byte, val string, want bool, now string) {
	s.Helper()
	ok, e, err := s.c.CompareAndSet(background, key, expect, []byte(val), 0)
	if ok != want || string(e.Value) != now || err != nil || (now == "") != (e.Revision == 0) {
		s.Fatalf("compare %q and set %q: got %v, %q (revision %d), %v, want %v, %q", expect, val, ok, e.Value, e.Revision, err, want, now)
	}
}

func (s *suite) compareAndSet() {
	k := s.key("a")
	s.cas(k, []byte("x"), "y", false, "")
	s.cas(k, nil, "one", true, "one")
	s.cas(k, nil, "two", false, "one")
	s.cas(k, []byte("on"), "two", false, "one")
	s.cas(k, []byte("one"), "two", true, "two")
	s.cas(k, []byte("one"), "three", false, "two")
	s.get(k, "two", true)
	if _, err := s.c.Delete(background, k); err != nil {
		s.Fatal(err)
	}
	s.cas(k, []byte("two"), "x", false, "")
	s.cas(k, nil, "again", true, "again")
}

func (s *suite) byRevision() {
	k := s.key("a")
	step := func(rev uint64, val string, want bool) services.Entry {
		s.Helper()
		ok, e, err := s.c.CompareAndSetRevision(background, k, rev, []byte(val), 0)
		if ok != want || err != nil {
			s.Fatalf("at revision %d set %q: got %v, %v, want %v", rev, val, ok, err, want)
		}
		return e
	}
	step(7, "no", false)
	one := step(0, "one", true)
	if e := step(0, "no", false); e.Revision != one.Revision || string(e.Value) != "one" {
		s.Errorf("refused: got %q at %d, want what stands there", e.Value, e.Revision)
	}
	two := step(one.Revision, "two", true)
	step(one.Revision, "no", false)
	s.set(k, "two", 0) // the same bytes, another revision
	step(two.Revision, "no", false)
	s.get(k, "two", true)
}

func (s *suite) byFunc() {
	k := s.key("a")
	fold := func(a, b []byte) bool { return strings.EqualFold(string(a), string(b)) }
	for _, c := range []struct {
		expect []byte
		val    string
		want   bool
		now    string
	}{
		{[]byte("a"), "x", false, ""},
		{nil, "Abc", true, "Abc"},
		{nil, "x", false, "Abc"},
		{[]byte("abd"), "x", false, "Abc"},
		{[]byte("aBC"), "Def", true, "Def"},
	} {
		ok, e, err := services.CompareAndSetFunc(background, s.c, k, c.expect, []byte(c.val), 0, fold)
		if ok != c.want || string(e.Value) != c.now || err != nil {
			s.Fatalf("expect %q set %q: got %v, %q, %v, want %v, %q", c.expect, c.val, ok, e.Value, err, c.want, c.now)
		}
	}
}

// eventually waits until ok returns true, for at most Slack.
func (s *suite) eventually(what string, ok func() bool) {
	s.Helper()
	end := time.Now().Add(s.cfg.Slack)
	for !ok() {
		if time.Now().After(end) {
			s.Fatalf("not within %v: %s", s.cfg.Slack, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *suite) gone(key string) bool {
	_, err := s.c.Get(background, key)
	return errors.Is(err, services.ErrNotFound)
}

func (s *suite) expiry() {
	const ttl = 300 * time.Millisecond
	k, kept := s.key("a"), s.key("kept")
	start := time.Now()
	s.set(k, "v", ttl)
	s.set(kept, "v", ttl)
	s.set(kept, "w", 0) // a set without a ttl ends the old one
	if e, err := s.c.Get(background, k); err != nil && time.Since(start) < ttl {
		s.Fatalf("before its ttl: got %q, %v", e.Value, err)
	}
	time.Sleep(ttl - time.Since(start))
	s.eventually("expires", func() bool { return s.gone(k) })
	if early := time.Since(start); early < ttl {
		s.Errorf("expired after %v, want not before %v", early, ttl)
	}
	s.cas(k, nil, "new", true, "new") // an expired key does not exist
	time.Sleep(ttl)
	s.get(k, "new", true)
	s.get(kept, "w", true)
}

func (s *suite) increments() {
	const workers = 8
	k := s.key("n")
	s.set(k, "0", 0)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			if err := Increment(s.c, k, s.cfg.Increments/workers); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	s.get(k, fmt.Sprint(s.cfg.Increments/workers*workers), true)
}

// Increment adds 1 to the decimal number stored under key, n times, by CompareAndSet.
func Increment(c services.Cache, key string, n int) error {
	e, err := c.Get(background, key)
	if err != nil {
		return err
	}
	for range n {
		for ok := false; !ok; {
			var v int
			if _, err := fmt.Sscan(string(e.Value), &v); err != nil {
				return err
			}
			ok, e, err = c.CompareAndSet(background, key, e.Value, fmt.Append(nil, v+1), 0)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// closed is a submitter that has closed.
type closed struct{}

func (closed) Submit(func()) error { return net.ErrClosed }

// full refuses the first calls.
type full struct {
	mu   sync.Mutex
	left int
}

func (f *full) Submit(fn func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left >= 0 {
		return errors.New("full")
	}
	go fn()
	return nil
}

// later collects functions until run.
type later struct {
	mu  sync.Mutex
	fns []func()
}

func (l *later) Submit(fn func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fns = append(l.fns, fn)
	return nil
}

func (l *later) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.fns)
}

func (l *later) run() {
	l.mu.Lock()
	fns := l.fns
	l.fns = nil
	l.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}
