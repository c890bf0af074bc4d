package cluster

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/services"
)

// check returns the connection for an operation on a key and a value's size.
func (c *Cache) check(key string, size int) (*connection, error) {
	l := c.live.Load()
	switch {
	case l == nil:
		return nil, services.ErrCacheClosed
	case len(key) > c.cfg.MaxKey || size > c.cfg.MaxValue:
		return nil, services.ErrCacheKey
	}
	return l, nil
}

// Get implements services.Cache. It asks the leader of the bucket's stream, one
// exchange: see the package comment for what that promises.
func (c *Cache) Get(ctx context.Context, key string) (services.Entry, error) {
	l, err := c.check(key, 0)
	if err != nil {
		return services.Entry{}, err
	}
	r, err := l.values.get(ctx, subjectKey(key))
	if err != nil {
		return services.Entry{}, err
	}
	if !r.present {
		return services.Entry{}, services.ErrNotFound
	}
	return services.Entry{Value: r.value, Revision: r.rev}, nil
}

// Set implements services.Cache: one exchange.
func (c *Cache) Set(ctx context.Context, key string, val []byte, ttl time.Duration) (uint64, error) {
	l, err := c.check(key, len(val))
	if err != nil {
		return 0, err
	}
	return l.values.put(ctx, write{key: subjectKey(key), value: val, ttl: ttl, expect: -1})
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
			return err == nil, err
		}
	}
}

// CompareAndSet implements services.Cache: two exchanges, more while others
// change the key in between.
func (c *Cache) CompareAndSet(ctx context.Context, key string, expect, val []byte, ttl time.Duration) (bool, services.Entry, error) {
	return c.change(ctx, key, val, ttl, func(r record) bool {
		if !r.present || expect == nil {
			return !r.present && expect == nil
		}
		return bytes.Equal(r.value, expect)
	})
}

// CompareAndSetRevision implements services.Cache: one exchange when it
// succeeds on a key that exists, else two.
func (c *Cache) CompareAndSetRevision(ctx context.Context, key string, rev uint64, val []byte, ttl time.Duration) (bool, services.Entry, error) {
	l, err := c.check(key, len(val))
	if err != nil {
		return false, services.Entry{}, err
	}
	if rev != 0 {
		// A revision that is a delete's or an expired value's would match in
		// the stream; only reading tells. Revisions come from Get, which gives
		// out neither, so what is left is a value that has expired since.
		now, err := l.values.put(ctx, write{key: subjectKey(key), value: val, ttl: ttl, expect: int64(rev)})
		if !errors.Is(err, errConflict) {
			return err == nil, services.Entry{Value: val, Revision: now}, err
		}
	}
	return c.change(ctx, key, val, ttl, func(r record) bool { return rev == 0 && !r.present })
}

// change reads, asks want, and writes if nobody has written in between.
func (c *Cache) change(ctx context.Context, key string, val []byte, ttl time.Duration, want func(record) bool) (bool, services.Entry, error) {
	l, err := c.check(key, len(val))
	if err != nil {
		return false, services.Entry{}, err
	}
	for {
		r, err := l.values.get(ctx, subjectKey(key))
		if err != nil {
			return false, services.Entry{}, err
		}
		if !want(r) {
			if !r.present {
				return false, services.Entry{}, nil
			}
			return false, services.Entry{Value: r.value, Revision: r.rev}, nil
		}
		rev, err := l.values.put(ctx, write{key: subjectKey(key), value: val, ttl: ttl, expect: int64(r.rev)})
		if err == nil {
			return true, services.Entry{Value: bytes.Clone(val), Revision: rev}, nil
		}
		if !errors.Is(err, errConflict) {
			return false, services.Entry{}, err
		}
	}
}

// Watch implements services.Cache: a consumer on the servers and a goroutine
// here for each. Expiry is seen when the servers remove the value: up to a
// second after its time.
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
	ctx, end := context.WithCancel(context.Background())
	kw, err := l.values.kv.Watch(ctx, subjectKey(key), jetstream.UpdatesOnly())
	if err != nil {
		end()
		c.watches.Add(-1)
		return nil, translate(err)
	}
	var once sync.Once
	var w *services.Watcher
	cancel := func() {
		once.Do(func() {
			w.End()
			c.watches.Add(-1)
			l.locks.running.Go(func() { // an exchange; ends the range below
				_ = kw.Stop()
				end() // the library has a goroutine wait for it
			})
		})
	}
	w = services.NewWatcher(on, fn, cancel)
	l.locks.running.Go(func() {
		for e := range kw.Updates() {
			if e != nil {
				w.Offer(event(key, e))
			}
		}
		cancel() // the connection has been closed
	})
	return cancel, nil
}

func event(key string, e jetstream.KeyValueEntry) services.Event {
	if e.Operation() != jetstream.KeyValuePut {
		return services.Event{Key: key}
	}
	return services.Event{Key: key, Present: true, Entry: services.Entry{Value: e.Value(), Revision: e.Revision()}}
}
