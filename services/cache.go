package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Errors of a Cache.
var (
	// ErrNotFound: the key holds nothing.
	ErrNotFound = errors.New("services: key not found")
	// ErrCacheFull: a limit on entries, bytes, locks, waits or watches is reached.
	ErrCacheFull = errors.New("services: cache limit reached")
	// ErrCacheKey: the key or the value is longer than the cache takes.
	ErrCacheKey = errors.New("services: key or value too long")
	// ErrCacheDown: the shared cache can't be reached now. The operation has not
	// happened and won't, unless the error is ErrCacheUnknown too.
	ErrCacheDown = errors.New("services: cache unavailable")
	// ErrCacheUnknown: the operation was on its way when its answer failed to
	// come: it may have happened or not, or be about to happen. It is an
	// ErrCacheDown.
	ErrCacheUnknown = fmt.Errorf("%w: outcome unknown", ErrCacheDown)
	// ErrCacheClosed: the cache has been stopped. It is net.ErrClosed.
	ErrCacheClosed = fmt.Errorf("services: cache stopped: %w", net.ErrClosed)
)

// Owner names who holds a lock: any comparable value, usually the
// *engine.Session. Locks and waits of an owner end together, by Release.
// Nil is the process itself.
type Owner any

// Entry is what stands under a key.
type Entry struct {
	// Value is shared and read-only: copy it to change it.
	Value []byte
	// Revision grows with every change of the key and is never 0.
	Revision uint64
}

// Event is a change of a watched key.
type Event struct {
	Key     string
	Entry   Entry // zero when the key has gone
	Present bool  // false: deleted or expired
}

// LockOptions say how a lock is taken.
type LockOptions struct {
	// TTL is how long the lock is held at most; at least 1 ms.
	TTL time.Duration
	// Wait is how long to wait for it; 0 tries once.
	Wait time.Duration
	// Owner frees it with Release; nil is the process.
	Owner Owner
	// On runs done and OnLost. Nil: they run on goroutines of the cache, and
	// must not block. When On has closed, the lock is given back.
	On Submitter
	// Renew keeps the lock while its owner lives: its TTL starts anew for as long
	// as it is neither unlocked nor released. A shared cache gives it to another
	// once the process has not been heard of for a lease.
	Renew bool
	// OnLost is called once when a lock that was given ends by other means than
	// Unlock or Release in this process: its TTL has passed, the store was out of
	// reach for a lease, another process has unlocked it, or the cache was
	// stopped. What the lock guards must not be touched from then on. Nobody
	// else has it before, unless this process stood still.
	OnLost func()
}

// CacheStats counts what a cache holds and did.
type CacheStats struct {
	Entries, Bytes, Locks, Waits, Watches int64
	Expired, Evicted, Refused             uint64
}

// Cache is the memory that services share: within a process (NewMemory), or
// between processes (package services/cluster). All methods may be called from
// any goroutine. Those that take a context may block on the network with the
// shared implementation and never block in process.
//
// The seeds call it MemCacheSingletonProcess and MemCacheMultiProcess.
type Cache interface {
	Service

	// Get returns what stands under key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// Set puts val (which is copied) under key; it expires after ttl, 0 = never,
	// and a negative one is an error.
	// It returns the new revision.
	Set(ctx context.Context, key string, val []byte, ttl time.Duration) (uint64, error)
	// Delete removes the key and says whether it was there.
	Delete(ctx context.Context, key string) (bool, error)
	// CompareAndSet puts val under key if the bytes expect stand there; a nil
	// expect means that the key must not exist. It returns what stands there
	// afterwards (zero Entry: nothing).
	CompareAndSet(ctx context.Context, key string, expect, val []byte, ttl time.Duration) (bool, Entry, error)
	// CompareAndSetRevision is CompareAndSet by revision; 0 means that the key
	// must not exist.
	CompareAndSetRevision(ctx context.Context, key string, rev uint64, val []byte, ttl time.Duration) (bool, Entry, error)

	// Lock takes the lock named key (locks and values don't share names) and
	// calls done once: with its fencing token, or 0 when Wait has passed, or an
	// error. The token of a key only grows, also over a restart, and stays
	// below 2^53. Locks are not re-entrant; waiters of one process are served
	// first come, first served. No goroutine waits. When Lock returns an error
	// done is not called. cancel ends the wait: true means that done won't run.
	Lock(key string, o LockOptions, done func(token uint64, err error)) (cancel func() bool, err error)
	// Unlock frees the lock if token is that of its holder.
	Unlock(ctx context.Context, key string, token uint64) (bool, error)
	// Release frees all locks of the owner and ends its waits (done is not
	// called), and says how many of both there were.
	Release(owner Owner) int

	// Watch calls fn on on (nil: on the goroutine of the change) for changes of
	// key after now, in order. A watcher that is slower than the changes sees
	// the latest one. cancel ends it; a call under way may still finish.
	Watch(key string, on Submitter, fn func(Event)) (cancel func(), err error)

	// Stats may be called at any time.
	Stats() CacheStats
}

// LockAndWait is Cache.Lock for a goroutine that may block: it returns when the
// lock is held, when o.Wait has passed (0, nil) or when ctx ends.
func LockAndWait(ctx context.Context, c Cache, key string, o LockOptions) (uint64, error) {
	type result struct {
		token uint64
		err   error
	}
	got := make(chan result, 1)
	if lost, on := o.OnLost, o.On; lost != nil && on != nil {
		o.OnLost = func() { deliver(on, lost, nil) }
	}
	o.On = nil
	cancel, err := c.Lock(key, o, func(token uint64, err error) { got <- result{token, err} })
	if err != nil {
		return 0, err
	}
	select {
	case r := <-got:
		return r.token, r.err
	case <-ctx.Done():
		if cancel() {
			return 0, ctx.Err()
		}
	}
	r := <-got
	if r.token != 0 {
		_, _ = c.Unlock(context.WithoutCancel(ctx), key, r.token) // its ttl ends it otherwise
	}
	return 0, ctx.Err()
}

// CompareAndSetFunc is CompareAndSet with an equality of the caller's, for
// values that have several spellings (JSONEqual). It tries again while others
// change the key in between; each round that fails means that another's
// succeeded.
func CompareAndSetFunc(ctx context.Context, c Cache, key string, expect, val []byte, ttl time.Duration, equal func(a, b []byte) bool) (bool, Entry, error) {
	for {
		e, err := c.Get(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, Entry{}, err
		}
		switch found := err == nil; {
		case found != (expect != nil):
			return false, e, nil
		case found && !equal(e.Value, expect):
			return false, e, nil
		}
		swapped, now, err := c.CompareAndSetRevision(ctx, key, e.Revision, val, ttl)
		if swapped || err != nil {
			return swapped, now, err
		}
		if err := ctx.Err(); err != nil {
			return false, now, err
		}
	}
}
