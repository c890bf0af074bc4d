package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/services"
)

// How a lock works. It is one subject of the lock bucket; who writes it on top
// of the last sequence that he knows of has it, and that write's own sequence
// is the fencing token: the servers decide, nobody else. Every process watches
// the bucket and so knows the locks that are held.
//
// Time runs on each process's own monotonic clock, nobody compares clocks: a
// holder counts the ttl from before it wrote, the others from when they saw
// the write, so a holder's time is always up first. A process also renews a
// subject of its own, three times a lease: one that the others have not seen
// renewed for a lease is dead and its locks may be taken; a process that could
// not renew for a lease, counted from before its last renewal, has lost its
// locks and takes none until it has renewed again. (The same reasoning as the lease of C. Gray and D. Cheriton,
// 1989, and of Amazon's DynamoDB lock client.)

// locks is this process's part. One goroutine watches, one renews, and a few
// exchange writes with the servers for all locks.
type locks struct {
	c *Cache
	b bucket

	mu     sync.Mutex
	keys   map[string]*lockKey // by subject token
	procs  map[string]time.Time
	owners map[services.Owner]map[*lockItem]struct{}
	alive  time.Time // this process's lease ends; zero before the first renewal
	held   int64
	waits  int64
	closed bool
	work   []*lockKey // to be looked at; each at most once
	wake   *sync.Cond

	watch   jetstream.KeyWatcher
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// lockWorkers is how many exchanges are under way at once at most.
const lockWorkers = 8

// lockKey is one lock, as far as this process knows and wants it.
// Guarded by locks.mu.
type lockKey struct {
	key   string // a subject token
	rev   uint64 // the subject's last sequence as known; 0 = none
	taken bool   // rev is a holder's write
	proc  string // the holder's process
	until time.Time
	idle  time.Time // since when nothing has been wanted of it

	held  *lockItem   // ours; its token is rev
	waits []*lockItem // oldest first
	busy  bool        // a worker has it, or it is in work
	again bool        // look at it again after that
	timer *time.Timer
}

// lockItem is one Lock call.
type lockItem struct {
	o     services.LockOptions
	done  func(uint64, error)
	key   *lockKey // nil once it has ended; guarded by locks.mu
	token uint64
	until time.Time // the wait's end
	once  bool      // it does not wait
	asked bool      // the servers were asked for it, since it came
}

// lockValue is what a holder writes.
type lockValue struct {
	Proc string `json:"proc"`
	TTL  int64  `json:"ttl_ms"`
}

const procPrefix = "p"

func newLocks(c *Cache, b bucket) *locks {
	l := &locks{c: c, b: b, keys: map[string]*lockKey{}, procs: map[string]time.Time{},
		owners: map[services.Owner]map[*lockItem]struct{}{}}
	l.wake = sync.NewCond(&l.mu)
	return l
}

// start renews once, reads what is held, and starts the goroutines.
func (l *locks) start(ctx context.Context) error {
	if err := l.renew(ctx); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	w, err := l.b.kv.WatchAll(run)
	if err != nil {
		cancel()
		return translate(err)
	}
	l.watch, l.cancel = w, cancel
	for first := true; first; {
		select {
		case e := <-w.Updates():
			if first = e != nil; first {
				l.see(e)
			}
		case <-ctx.Done():
			cancel()
			_ = w.Stop()
			return fmt.Errorf("cluster: read the locks: %w", ctx.Err())
		}
	}
	l.running.Go(func() {
		for e := range w.Updates() {
			if e != nil {
				l.see(e)
			}
		}
	})
	l.running.Go(func() { l.renewals(run) })
	for range lockWorkers {
		l.running.Go(l.worker)
	}
	return nil
}

// stop ends the waits and gives the locks back while ctx lasts. The goroutines
// end when the connection is closed.
func (l *locks) stop(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	var after []func()
	var held []write
	for _, k := range l.keys {
		for _, it := range k.waits {
			l.waits--
			l.end(it)
			after = append(after, func() { services.Deliver(it.o.On, func() { it.done(0, services.ErrCacheClosed) }, nil) })
		}
		k.waits = nil
		if k.held != nil {
			held = append(held, write{key: k.key, purge: true, ttl: markerTTL, expect: int64(k.held.token)})
		}
		if k.timer != nil {
			k.timer.Stop()
		}
	}
	l.wake.Broadcast()
	l.mu.Unlock()
	for _, fn := range after {
		fn()
	}
	var errs []error
	for _, w := range held {
		if _, err := l.b.put(ctx, w); err != nil && !errors.Is(err, errConflict) {
			errs = append(errs, err)
			break // the lease ends the rest
		}
	}
	l.cancel()
	if len(errs) == 0 {
		_, _ = l.b.put(ctx, write{key: procPrefix + l.c.proc, purge: true, ttl: markerTTL, expect: -1})
	}
	_ = l.watch.Stop()
	return errors.Join(errs...)
}

func (l *locks) counts() (held, waits int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held, l.waits
}

// renewals keeps this process's locks, and forgets and cleans up what nobody
// wants.
func (l *locks) renewals(ctx context.Context) {
	t := time.NewTicker(l.c.cfg.Lease / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.c.cfg.Logger.Warn("cluster: lease not renewed", "err", err)
		}
		l.tidy()
	}
}

func (l *locks) renew(ctx context.Context) error {
	start := time.Now()
	_, err := l.b.put(ctx, write{key: procPrefix + l.c.proc, ttl: max(time.Minute, 10*l.c.cfg.Lease), expect: -1})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !time.Now().Before(l.alive) {
		l.loseAll() // of the lease that has lapsed
	}
	l.alive = start.Add(l.c.cfg.Lease)
	return nil
}

// loseAll ends all our holdings. l.mu is held.
func (l *locks) loseAll() {
	for _, k := range l.keys {
		if k.held != nil {
			l.lose(k)
			l.kick(k)
		}
	}
}

// see takes in a change of the bucket. Watcher's goroutine.
func (l *locks) see(e jetstream.KeyValueEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	present := e.Operation() == jetstream.KeyValuePut
	if proc, ok := strings.CutPrefix(e.Key(), procPrefix); ok {
		if present {
			l.procs[proc] = time.Now().Add(l.c.cfg.Lease)
		} else {
			delete(l.procs, proc)
		}
		return
	}
	k := l.keys[e.Key()]
	if k == nil {
		if !present {
			return
		}
		k = &lockKey{key: e.Key(), idle: time.Now()}
		l.keys[e.Key()] = k
	}
	if e.Revision() > k.rev {
		l.learn(k, record{e.Revision(), present, e.Value()})
		l.kick(k)
	}
}

// learn stores what stands under the lock's subject. l.mu is held.
func (l *locks) learn(k *lockKey, r record) {
	k.rev, k.taken = r.rev, r.present
	if k.held != nil && k.held.token != r.rev {
		l.lose(k)
	}
	if !r.present {
		return
	}
	var v lockValue
	if json.Unmarshal(r.value, &v) != nil {
		v = lockValue{} // not a holder that we know how to wait for
	}
	now := time.Now()
	k.proc = v.Proc
	k.until = now.Add(min(time.Duration(v.TTL), longestTTL) * time.Millisecond)
	if _, ok := l.procs[v.Proc]; !ok {
		l.procs[v.Proc] = now.Add(l.c.cfg.Lease) // it has that long to show up
	}
}

const longestTTL = time.Duration(1<<62) / time.Millisecond

// free says whether the lock may be taken now. l.mu is held.
func (l *locks) free(k *lockKey, now time.Time) bool {
	switch {
	case !k.taken:
		return true
	case k.held != nil:
		return false
	case k.proc == l.c.proc:
		return true // written by us, but nobody here holds it: left over
	}
	return !now.Before(k.until) || !now.Before(l.procs[k.proc])
}

// lose ends our holding of the lock. l.mu is held.
func (l *locks) lose(k *lockKey) {
	it := k.held
	k.held = nil
	l.held--
	l.end(it)
}

// end takes the item off its owner. l.mu is held.
func (l *locks) end(it *lockItem) {
	it.key = nil
	set := l.owners[it.o.Owner]
	delete(set, it)
	if len(set) == 0 {
		delete(l.owners, it.o.Owner)
	}
}

// tidy drops what has not been wanted for some time, and has locks removed
// whose holders are long gone.
func (l *locks) tidy() {
	const most = 64
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	n := 0
	for _, k := range l.keys {
		switch {
		case k.busy || k.held != nil || len(k.waits) > 0:
			k.idle = now
		case !k.taken && now.Sub(k.idle) > markerTTL:
			if k.timer != nil {
				k.timer.Stop()
			}
			delete(l.keys, k.key)
		case k.taken && n < most && l.free(k, now.Add(-2*l.c.cfg.Lease)):
			n++
			l.kick(k)
		}
	}
	for p, until := range l.procs {
		if now.Sub(until) > time.Minute && !l.holds(p) {
			delete(l.procs, p)
		}
	}
}

func (l *locks) holds(proc string) bool {
	for _, k := range l.keys {
		if k.taken && k.proc == proc {
			return true
		}
	}
	return false
}
