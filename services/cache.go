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
	// ErrNotFound: the key has no value.
	ErrNotFound = errors.New("services: key not found")
	// ErrCacheFull: a limit on entries, bytes, locks, waits or watches is reached.
	ErrCacheFull = errors.New("services: cache limit reached")
	// ErrCacheKey: the key or the value is longer than the cache allows.
	ErrCacheKey = errors.New("services: key or value too long")
	// ErrCacheDown: the shared cache can't be reached at present. The operation has not happened
	// and will not happen, unless the error is ErrCacheUnknown too.
	ErrCacheDown = errors.New("services: cache unavailable")
	// ErrCacheUnknown: no answer to the operation arrived: it may or may not have happened, or may
	// still happen. It is an ErrCacheDown too.
	ErrCacheUnknown = fmt.Errorf("%w: outcome unknown", ErrCacheDown)
	// ErrCacheClosed: the cache has been stopped. It is net.ErrClosed too.
	ErrCacheClosed = fmt.Errorf("services: cache stopped: %w", net.ErrClosed)
)

// Owner identifies who holds a lock: any comparable value, usually the *engine.Session. Release
// ends all locks and waits of an owner. Nil is the process itself.
type Owner any

// Entry is the value of a key.
type Entry struct {
	// Value is shared and must not be changed; copy it first.
	Value []byte
	// Revision increases with every change of the key and is never 0.
	Revision uint64
}

// Event is a change of a watched key.
type Event struct {
	Key     string
	Entry   Entry // zero when the key was removed
	Present bool  // false: deleted or expired
}

// LockOptions are the options of Cache.Lock.
type LockOptions struct {
	// TTL is the longest time that the lock is held; at least 1 ms.
	TTL time.Duration
	// Wait is how long to wait for the lock; 0 tries once.
	Wait time.Duration
	// Owner owns the lock, for Release; nil is the process.
	Owner Owner
	// On runs done and OnLost. If it is nil, they run on goroutines of the cache, and must not
	// block. When On has closed, the lock is released.
	On Submitter
	// Renew renews the TTL as long as the lock is neither unlocked nor released. If the process of
	// a shared cache fails, the lock is free after a lease.
	Renew bool
	// OnLost is called once when a held lock ends by other means than Unlock or Release in this
	// process: its TTL has passed, the store was unreachable for a lease, another process has
	// unlocked it, or the cache was stopped. The data protected by the lock must not be touched
	// from then on. Nobody else holds the lock before the call, unless this process was suspended.
	OnLost func()
}

// CacheStats are the counters of a cache.
type CacheStats struct {
	Entries, Bytes, Locks, Waits, Watches int64
	Expired, Evicted, Refused             uint64
}

// Cache is a store of keys and locks that services share: within a process (NewMemory), or between
// processes (package services/cluster). All methods may be called from any goroutine. Methods that
// take a context may block on the network with the shared implementation and never block in
// process.
type Cache interface {
	Service

	// Get returns the value of key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// Set stores a copy of val under key and returns the new revision. The value expires after ttl;
	// 0 means never, a negative ttl is an error.
	Set(ctx context.Context, key string, val []byte, ttl time.Duration) (uint64, error)
	// Delete removes the key and reports whether it existed.
	Delete(ctx context.Context, key string) (bool, error)
	// CompareAndSet stores val under key if its present value equals expect; a nil expect means
	// that the key must not exist. It returns the value afterwards (zero Entry: none).
	CompareAndSet(ctx context.Context, key string, expect, val []byte, ttl time.Duration) (bool, Entry, error)
	// CompareAndSetRevision compares the revision instead of the value; 0 means that the key must
	// not exist.
	CompareAndSetRevision(ctx context.Context, key string, rev uint64, val []byte, ttl time.Duration) (bool, Entry, error)

	// Lock acquires the lock named key (locks and values have separate names) and
	// calls done once: with the lock's fencing token, with 0 when Wait has passed
	// and others had the lock, or with an error. The token of a key only increases, also across restarts,
	// and stays below 2^53. Locks are not re-entrant; the waiters of one process
	// are served in order of arrival. Waiting blocks no goroutine. When Lock
	// returns an error, done is not called. cancel ends the wait; true means that
	// done won't be called.
	Lock(key string, o LockOptions, done func(token uint64, err error)) (cancel func() bool, err error)
	// Unlock releases the lock if token is its holder's token.
	Unlock(ctx context.Context, key string, token uint64) (bool, error)
	// Release releases all locks of the owner, ends its waits (done is not called), and returns how
	// many of both there were.
	Release(owner Owner) int

	// Watch calls fn on on (nil: on the goroutine of the change) for later changes of key, in
	// order. If fn is slower than the changes, intermediate ones are skipped. cancel ends the
	// watch; a running call may still finish.
	Watch(key string, on Submitter, fn func(Event)) (cancel func(), err error)

	// Stats may be called at any time.
	Stats() CacheStats
}

// LockAndWait is Cache.Lock for a goroutine that may block: it returns when the lock is held, when
// o.Wait has passed (0, nil) or when ctx ends.
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
		_, _ = c.Unlock(context.WithoutCancel(ctx), key, r.token) // else its TTL ends it
	}
	return 0, ctx.Err()
}

// CompareAndSetFunc is CompareAndSet with a caller-supplied equality, for values with several
// equivalent encodings (JSONEqual). It retries while others change the key in between; each retry
// means that another caller's change succeeded.
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
