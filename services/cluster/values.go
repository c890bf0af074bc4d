package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/services"
)

// check returns the connection for an operation on a key and a value of that size.
func (c *Cache) check(key string, size int) (*connection, error) {
	l := c.live.Load()
	switch {
	case l == nil:
		return nil, services.ErrCacheClosed
	case len(key) > c.cfg.MaxKey || size > c.cfg.MaxValue:
		return nil, services.ErrCacheKey
	}
	if err := l.lost.Load(); err != nil {
		return nil, *err
	}
	return l, nil
}

// checkWrite is check for an operation that writes a value.
func (c *Cache) checkWrite(key string, val []byte, ttl time.Duration) (*connection, error) {
	if ttl < 0 {
		return nil, fmt.Errorf("cluster: ttl %v is negative; 0 means no expiry", ttl)
	}
	return c.check(key, len(val))
}

// A Revision is the value's sequence, with the lowest bit set if the value expires: then a
// comparison by revision must read the value first.
func revision(seq uint64, ttl time.Duration) uint64 {
	if ttl > 0 {
		return seq<<1 | 1
	}
	return seq << 1
}

// entry returns the record as callers see it.
func (r record) entry() services.Entry {
	if !r.present {
		return services.Entry{}
	}
	return services.Entry{Value: r.value, Revision: revision(r.rev, r.ttl)}
}

// Get implements services.Cache. It reads from the leader of the bucket's stream, with one
// exchange; see the package comment for the guarantees.
func (c *Cache) Get(ctx context.Context, key string) (services.Entry, error) {
	return c.get(ctx, key, subjectKey(key))
}

func (c *Cache) get(ctx context.Context, key, subject string) (services.Entry, error) {
	l, err := c.check(key, 0)
	if err != nil {
		return services.Entry{}, err
	}
	r, err := l.values.get(ctx, subject)
	if err != nil {
		return services.Entry{}, err
	}
	if !r.present {
		return services.Entry{}, services.ErrNotFound
	}
	return r.entry(), nil
}

// Set implements services.Cache: one exchange.
func (c *Cache) Set(ctx context.Context, key string, val []byte, ttl time.Duration) (uint64, error) {
	l, err := c.checkWrite(key, val, ttl)
	if err != nil {
		return 0, err
	}
	seq, err := l.values.put(ctx, write{key: subjectKey(key), value: val, ttl: ttl, expect: -1})
	if err != nil {
		return 0, l.accept(err)
	}
	return revision(seq, ttl), nil
}

// Delete implements services.Cache: two exchanges.
func (c *Cache) Delete(ctx context.Context, key string) (bool, error) {
	l, err := c.check(key, 0)
	if err != nil {
		return false, err
	}
	for {
		r, err := l.values.get(ctx, subjectKey(key))
		if err != nil || !r.present {
			return false, err
		}
		_, err = l.values.put(ctx, write{key: subjectKey(key), purge: true, ttl: markerTTL, expect: int64(r.rev)})
		if !errors.Is(err, errConflict) {
			return err == nil, l.accept(err)
		}
	}
}

// CompareAndSet implements services.Cache: two exchanges, more while others
// change the key in between.
func (c *Cache) CompareAndSet(ctx context.Context, key string, expect, val []byte, ttl time.Duration) (bool, services.Entry, error) {
	return c.change(ctx, key, subjectKey(key), val, ttl, func(r record) bool {
		if !r.present || expect == nil {
			return !r.present && expect == nil
		}
		return bytes.Equal(r.value, expect)
	})
}

// CompareAndSetRevision implements services.Cache: one exchange when it
// succeeds on a value that does not expire, else two.
func (c *Cache) CompareAndSetRevision(ctx context.Context, key string, rev uint64, val []byte, ttl time.Duration) (bool, services.Entry, error) {
	return c.compareRevision(ctx, key, subjectKey(key), rev, val, ttl)
}

func (c *Cache) compareRevision(ctx context.Context, key, subject string, rev uint64, val []byte, ttl time.Duration) (bool, services.Entry, error) {
	l, err := c.checkWrite(key, val, ttl)
	if err != nil {
		return false, services.Entry{}, err
	}
	if rev != 0 && rev&1 == 0 {
		seq, err := l.values.put(ctx, write{key: subject, value: val, ttl: ttl, expect: int64(rev >> 1)})
		if err == nil {
			return true, services.Entry{Value: bytes.Clone(val), Revision: revision(seq, ttl)}, nil
		}
		if !errors.Is(err, errConflict) {
			return false, services.Entry{}, l.accept(err)
		}
	}
	return c.change(ctx, key, subject, val, ttl, func(r record) bool { return r.entry().Revision == rev })
}

// change reads, calls want, and writes if nobody has written in between.
func (c *Cache) change(ctx context.Context, key, subject string, val []byte, ttl time.Duration, want func(record) bool) (bool, services.Entry, error) {
	l, err := c.checkWrite(key, val, ttl)
	if err != nil {
		return false, services.Entry{}, err
	}
	for {
		r, err := l.values.get(ctx, subject)
		if err != nil {
			return false, services.Entry{}, l.accept(err)
		}
		if !want(r) {
			return false, r.entry(), nil
		}
		seq, err := l.values.put(ctx, write{key: subject, value: val, ttl: ttl, expect: int64(r.rev)})
		if err == nil {
			return true, services.Entry{Value: bytes.Clone(val), Revision: revision(seq, ttl)}, nil
		}
		if !errors.Is(err, errConflict) {
			return false, services.Entry{}, l.accept(err)
		}
	}
}

// Watch implements services.Cache, with a consumer on the servers and a goroutine here for each.
// Expiry is reported when the servers remove the value, a second or two after its time, or when
// somebody reads it earlier.
func (c *Cache) Watch(key string, on services.Submitter, fn func(services.Event)) (func(), error) {
	l, err := c.check(key, 0)
	if err != nil {
		return nil, err
	}
	if c.watches.Add(1) > int64(c.cfg.MaxWatches) {
		c.watches.Add(-1)
		c.refused.Add(1)
		return nil, services.ErrCacheFull
	}
	ctx, end := context.WithCancel(l.locks.run)
	context.AfterFunc(ctx, func() { c.watches.Add(-1) })
	w := &watch{key: key, begun: make(chan struct{})}
	w.to = services.NewWatcher(on, fn, end)
	l.locks.running.Go(func() {
		defer end()
		l.values.follow(ctx, subjectKey(key), l.again, observer{w.begin, w.see, w.whole})
	})
	cancel := func() {
		w.to.End()
		end()
	}
	select {
	case <-w.begun: // later changes will be seen
		return cancel, nil
	case <-ctx.Done():
		err = services.ErrCacheClosed
	case <-time.After(c.cfg.Timeout):
		err = fmt.Errorf("%w: no watch within %v", services.ErrCacheDown, c.cfg.Timeout)
	}
	cancel()
	return nil, err
}

// watch is one watch: the state reported for its key. Its functions run one at a time, on follow's
// goroutines.
type watch struct {
	key   string
	to    *services.Watcher
	begun chan struct{} // closed when the initial state is known

	started bool
	last    record // as last reported, or initially
	found   bool   // since begin
}

func (w *watch) begin() { w.found = false }

func (w *watch) see(_ string, r record) {
	w.found = true
	if r.rev <= w.last.rev {
		return
	}
	told := w.last.present || r.present
	w.last = r
	if w.started && told {
		w.to.Offer(services.Event{Key: w.key, Present: r.present, Entry: r.entry()})
	}
}

func (w *watch) whole() {
	if !w.found && w.last.present { // deleted, and the marker is gone too
		w.last.present = false
		w.to.Offer(services.Event{Key: w.key})
	}
	if !w.started {
		w.started = true
		close(w.begun)
	}
}
