package cachetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/services"
)

const long = time.Minute

func (s *suite) lock(key string, o services.LockOptions) uint64 {
	s.Helper()
	if o.TTL == 0 {
		o.TTL = long
	}
	token, err := services.LockAndWait(background, s.c, key, o)
	if err != nil {
		s.Fatalf("lock %q: %v", key, err)
	}
	if token >= 1<<53 {
		s.Fatalf("token %d: want less than 2^53", token)
	}
	return token
}

func (s *suite) mustLock(key string, o services.LockOptions) uint64 {
	s.Helper()
	token := s.lock(key, o)
	if token == 0 {
		s.Fatalf("lock %q: not got", key)
	}
	return token
}

func (s *suite) unlock(key string, token uint64, want bool) {
	s.Helper()
	if ok, err := s.c.Unlock(background, key, token); ok != want || err != nil {
		s.Fatalf("unlock %q with %d: got %v, %v, want %v", key, token, ok, err, want)
	}
}

func (s *suite) lockBasics() {
	k, other := s.key("a"), s.key("b")
	t1 := s.mustLock(k, services.LockOptions{})
	s.mustLock(other, services.LockOptions{})
	if again := s.lock(k, services.LockOptions{}); again != 0 {
		s.Fatalf("a second holder got token %d beside %d", again, t1)
	}
	s.get(k, "", false) // locks and values don't share names
	s.unlock(k, 0, false)
	s.unlock(k, t1+1, false)
	s.unlock(other, t1, false)
	s.unlock(k, t1, true)
	s.unlock(k, t1, false)
	t2 := s.mustLock(k, services.LockOptions{})
	if t2 <= t1 {
		s.Errorf("token: got %d after %d", t2, t1)
	}
	s.unlock(k, t1, false)
	s.unlock(k, t2, true)
}

// wait is a pending Lock call.
type wait struct {
	calls  atomic.Int32
	token  atomic.Uint64
	err    atomic.Value
	cancel func() bool
}

func (s *suite) begin(key string, o services.LockOptions) *wait {
	s.Helper()
	if o.TTL == 0 {
		o.TTL = long
	}
	if o.Wait == 0 {
		o.Wait = long
	}
	w := &wait{}
	cancel, err := s.c.Lock(key, o, func(token uint64, err error) {
		if err != nil {
			w.err.Store(err)
		}
		w.token.Store(token)
		w.calls.Add(1)
	})
	if err != nil {
		s.Fatalf("lock %q: %v", key, err)
	}
	w.cancel = cancel
	return w
}

func (w *wait) done() bool { return w.calls.Load() > 0 }

func (s *suite) lockWaits() {
	const waits = 5
	k := s.key("a")
	token := s.mustLock(k, services.LockOptions{})
	var ws []*wait
	for range waits {
		ws = append(ws, s.begin(k, services.LockOptions{}))
	}
	for i, w := range ws {
		if w.done() {
			s.Fatalf("wait %d ended while the lock was held", i)
		}
		s.unlock(k, token, true)
		s.eventually("the next in line gets it", w.done)
		next := w.token.Load()
		if next <= token {
			s.Fatalf("wait %d: got token %d after %d", i, next, token)
		}
		token = next
	}
	s.unlock(k, token, true)
	for i, w := range ws {
		if n := w.calls.Load(); n != 1 {
			s.Errorf("wait %d: done ran %d times", i, n)
		}
	}
}

func (s *suite) lockTTL() {
	const ttl = 300 * time.Millisecond
	k := s.key("a")
	start := time.Now()
	t1 := s.mustLock(k, services.LockOptions{TTL: ttl})
	t2 := s.mustLock(k, services.LockOptions{Wait: long})
	if d := time.Since(start); d < ttl || d > ttl+s.cfg.Slack {
		s.Errorf("passed on after %v, want %v", d, ttl)
	}
	if t2 <= t1 {
		s.Errorf("token: got %d after %d", t2, t1)
	}
	s.unlock(k, t1, false)
	s.unlock(k, t2, true)

	t3 := s.mustLock(k, services.LockOptions{TTL: ttl})
	time.Sleep(ttl + 50*time.Millisecond)
	s.unlock(k, t3, false) // it had expired, though nobody wanted it
	s.unlock(k, s.mustLock(k, services.LockOptions{Wait: s.cfg.Slack}), true)
}

func (s *suite) waitEnds() {
	const patience = 200 * time.Millisecond
	k := s.key("a")
	token := s.mustLock(k, services.LockOptions{})
	start := time.Now()
	got := s.lock(k, services.LockOptions{Wait: patience})
	if d := time.Since(start); got != 0 || d < patience || d > patience+s.cfg.Slack {
		s.Errorf("got token %d after %v, want none after %v", got, d, patience)
	}
	s.unlock(k, token, true)
	s.unlock(k, s.mustLock(k, services.LockOptions{}), true) // the wait left nothing behind
}

func (s *suite) waitCancelled() {
	k := s.key("a")
	token := s.mustLock(k, services.LockOptions{})
	w, next := s.begin(k, services.LockOptions{}), s.begin(k, services.LockOptions{})
	if !w.cancel() {
		s.Error("cancel: got false for a wait")
	}
	if w.cancel() {
		s.Error("cancel twice: got true")
	}
	ctx, stop := context.WithTimeout(background, 50*time.Millisecond)
	defer stop()
	if _, err := services.LockAndWait(ctx, s.c, k, services.LockOptions{TTL: long, Wait: long}); !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("a context that ends: got %v", err)
	}
	s.unlock(k, token, true)
	s.eventually("the next gets it", next.done)
	if w.done() {
		s.Error("done ran for a cancelled wait")
	}
	if next.cancel() {
		s.Error("cancel of a lock that is held: got true")
	}
	s.unlock(k, next.token.Load(), true)
}

func (s *suite) release() {
	mine, yours := services.Owner("mine "+s.key("")), services.Owner("yours "+s.key(""))
	var keys []string
	var waits []*wait
	for i := range 5 {
		k := s.key(fmt.Sprint(i))
		keys = append(keys, k)
		s.mustLock(k, services.LockOptions{Owner: mine})
		waits = append(waits, s.begin(k, services.LockOptions{Owner: yours}))
	}
	held := s.key("held")
	token := s.mustLock(held, services.LockOptions{Owner: yours})
	mineWaits := s.begin(held, services.LockOptions{Owner: mine})
	if n := s.c.Release(mine); n != 6 {
		s.Errorf("release: got %d, want 5 locks and 1 wait", n)
	}
	if n := s.c.Release(mine); n != 0 {
		s.Errorf("release again: got %d", n)
	}
	for i, w := range waits {
		s.eventually("a released lock goes on", w.done)
		s.unlock(keys[i], w.token.Load(), true)
	}
	s.unlock(held, token, true)
	s.unlock(held, s.mustLock(held, services.LockOptions{Wait: s.cfg.Slack}), true)
	if mineWaits.done() {
		s.Error("done ran for a released wait")
	}
	if n := s.c.Release(yours); n != 0 {
		s.Errorf("release after unlock: got %d", n)
	}
}

// releasedUntold: the owner releases after the lock was granted but before done has run, as a
// session does when it closes.
func (s *suite) releasedUntold() {
	k, mine := s.key("a"), services.Owner("mine "+s.key(""))
	var on later
	w := s.begin(k, services.LockOptions{Owner: mine, On: &on})
	s.eventually("the lock has come", func() bool { return on.len() == 1 })
	behind := s.begin(k, services.LockOptions{Owner: mine, On: &on})
	if n := s.c.Release(mine); n != 2 {
		s.Errorf("release: got %d, want a lock and a wait", n)
	}
	next := s.begin(k, services.LockOptions{})
	s.eventually("it is free", next.done)
	on.run()
	if w.done() || behind.done() {
		s.Errorf("done was told token %d and %d of a lock that another has", w.token.Load(), behind.token.Load())
	}
	if !w.cancel() || !behind.cancel() {
		s.Error("cancel: got false, though done won't run")
	}
	s.unlock(k, next.token.Load(), true)
}

func (s *suite) fullSubmitter() {
	k := s.key("a")
	w := s.begin(k, services.LockOptions{On: &full{left: 3}})
	s.eventually("done runs", w.done)
	s.unlock(k, w.token.Load(), true)
}

func (s *suite) closedSubmitter() {
	k := s.key("a")
	token := s.mustLock(k, services.LockOptions{})
	gone := s.begin(k, services.LockOptions{On: closed{}})
	next := s.begin(k, services.LockOptions{})
	s.unlock(k, token, true)
	s.eventually("it is passed on", next.done)
	s.unlock(k, next.token.Load(), true)
	if gone.done() {
		s.Error("done ran on a closed submitter")
	}
}

// exclusion: many goroutines, few locks, some left to their ttl, some waits
// given up; a holder checks that it is alone and that tokens grow.
func (s *suite) exclusion() {
	const workers, rounds, locks = 8, 40, 3
	type guarded struct {
		holders atomic.Int32
		mu      sync.Mutex
		token   uint64
	}
	var g [locks]guarded
	base := s.key("l")
	var wg sync.WaitGroup
	var got atomic.Int32
	for w := range workers {
		wg.Go(func() {
			for r := range rounds {
				i := (w + r) % locks
				key := fmt.Sprint(base, i)
				token := s.lock(key, services.LockOptions{Wait: time.Duration(r%7) * 20 * time.Millisecond})
				if token == 0 {
					continue
				}
				got.Add(1)
				if n := g[i].holders.Add(1); n != 1 {
					s.Errorf("%d holders at once", n)
				}
				g[i].mu.Lock()
				if token <= g[i].token {
					s.Errorf("token %d after %d", token, g[i].token)
				}
				g[i].token = token
				g[i].mu.Unlock()
				time.Sleep(100 * time.Microsecond)
				g[i].holders.Add(-1)
				s.unlock(key, token, true)
			}
		})
	}
	wg.Wait()
	if got.Load() < workers {
		s.Errorf("only %d locks were got", got.Load())
	}
}
