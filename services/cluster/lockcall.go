package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/services"
)

// Lock implements services.Cache: one exchange when the lock is free.
func (c *Cache) Lock(key string, o services.LockOptions, done func(uint64, error)) (func() bool, error) {
	return c.lockAt(key, subjectKey(key), o, done)
}

func (c *Cache) lockAt(key, subject string, o services.LockOptions, done func(uint64, error)) (func() bool, error) {
	if o.TTL < time.Millisecond || o.Wait < 0 {
		return nil, fmt.Errorf("cluster: lock for %v, wait %v: out of range", o.TTL, o.Wait)
	}
	n, err := c.check(key, 0)
	if err != nil {
		return nil, err
	}
	return n.locks.lock(subject, o, done)
}

func (l *locks) lock(subject string, o services.LockOptions, done func(uint64, error)) (func() bool, error) {
	if o.Renew {
		o.TTL = longestTTL * time.Millisecond / 4 // it ends with the lease of this process
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.owners[o.Owner]
	switch {
	case l.closed:
		return nil, services.ErrCacheClosed
	case l.n.unreachable():
		return nil, errAway
	case l.held+l.waits >= int64(l.c.cfg.MaxLocks), o.Owner != nil && len(set) >= l.c.cfg.MaxPerOwner:
		l.c.refused.Add(1)
		return nil, services.ErrCacheFull
	}
	k := l.keys[subject]
	if k == nil {
		k = l.addKey(subject)
	}
	it := &lockItem{o: o, done: done, key: k, until: later(o.Wait), once: o.Wait == 0}
	if set == nil {
		set = map[*lockItem]struct{}{}
		l.owners[o.Owner] = set
	}
	set[it] = struct{}{}
	k.waits = append(k.waits, it)
	k.idle = timeNow()
	l.waits++
	l.kick(k)
	return func() bool { return l.cancelWait(it) }, nil
}

// later returns the time d from now, saturating.
func later(d time.Duration) time.Time {
	return timeNow().Add(min(d, 100*365*24*time.Hour))
}

// dequeue removes a wait. l.mu is held.
func (l *locks) dequeue(it *lockItem) {
	k := it.key
	if i := slices.Index(k.waits, it); i >= 0 {
		k.waits = slices.Delete(k.waits, i, i+1)
		l.waits--
	}
}

func (l *locks) cancelWait(it *lockItem) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if it.key == nil || it.key.held == it {
		return it.released && !it.told
	}
	l.dequeue(it)
	l.end(it)
	return true
}

// Release implements services.Cache. The servers are notified a moment later.
func (c *Cache) Release(owner services.Owner) int {
	n := c.live.Load()
	if n == nil {
		return 0
	}
	l := n.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	count := len(l.owners[owner])
	for it := range l.owners[owner] {
		k := it.key
		it.released = true
		if k.held == it {
			it.given = true
			l.lose(k)
		} else {
			l.dequeue(it)
			l.end(it)
		}
		l.kick(k)
	}
	return count
}

// Unlock implements services.Cache: one exchange, two when another process
// holds the lock.
func (c *Cache) Unlock(ctx context.Context, key string, token uint64) (bool, error) {
	return c.unlockAt(ctx, key, subjectKey(key), token)
}

func (c *Cache) unlockAt(ctx context.Context, key, subject string, token uint64) (bool, error) {
	n, err := c.check(key, 0)
	if err != nil || token == 0 || token >= 1<<53 {
		return false, err
	}
	return n.locks.unlock(ctx, subject, token)
}

func (l *locks) unlock(ctx context.Context, key string, token uint64) (bool, error) {
	l.mu.Lock()
	k := l.keys[key]
	known := k != nil && k.rev >= token
	good := known && l.valid(k, token)
	var it *lockItem
	if good && k.held != nil {
		it = k.held
		it.given = true
	}
	l.mu.Unlock()
	if known && !good {
		return false, nil
	}
	if !known {
		// It was just taken by another process: read it.
		r, err := l.b.get(ctx, key)
		if err != nil || r.rev != token || !r.present {
			return false, l.n.accept(err)
		}
	}
	rev, err := l.b.put(ctx, write{key: key, purge: true, ttl: markerTTL, expect: int64(token)})
	l.mu.Lock()
	defer l.mu.Unlock()
	if k = l.keys[key]; k == nil {
		k = &lockKey{}
	}
	mine := it != nil && k.held == it
	switch {
	case err == nil:
		if k.rev == token {
			l.learn(k, record{rev: rev})
			l.kick(k)
		}
		return true, nil
	case errors.Is(err, errConflict):
		if mine {
			it.given = false // the stored record shows the outcome
			l.kick(k)
		}
		return false, nil
	case mine && errors.Is(err, services.ErrCacheUnknown):
		l.lose(k) // it is released later, if necessary
		l.kick(k)
	case mine:
		it.given = false // no release was attempted
	}
	return false, l.n.accept(err)
}

// valid reports whether the token is that of the lock's present holder. l.mu is held.
func (l *locks) valid(k *lockKey, token uint64) bool {
	now := timeNow()
	if !k.taken || k.rev != token {
		return false
	}
	if k.held != nil {
		return now.Before(k.until) && now.Before(l.alive)
	}
	return !l.free(k, now)
}

// Owns reports whether an owner holds a lock, or waits for one.
func (c *Cache) Owns(owner services.Owner) bool {
	n := c.live.Load()
	if n == nil {
		return false
	}
	n.locks.mu.Lock()
	defer n.locks.mu.Unlock()
	return len(n.locks.owners[owner]) > 0
}
