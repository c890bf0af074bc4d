package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/services"
)

// How a lock works. It is a subject of the lock bucket; the process that writes it on top of the
// last sequence it knows holds the lock, and the sequence of that write is the fencing token: only
// the servers decide. Every process watches the bucket to learn of changes and to know when to look
// again. No decision relies on a watch being complete.
//
// Each process writes a subject of its own, its lease, three times within the lease time, each time
// on top of its last write. A process that has known one write of another's lease for the lease
// time asks the servers to put a mark on top of exactly that write: if they do, the other has not
// renewed since, is declared dead, and all locks that it took before the mark are free. If they
// don't, it is alive, and the lease is counted from there. A process that finds a mark on its lease
// has lost its locks, and starts again on top of the mark.
//
// Time is measured by each process's own monotonic clock, and clocks are never compared: a holder
// counts its lease and its TTL from before its write, the others from when they learned of the
// write, plus a tenth, so a holder's time always ends first. (The reasoning of the leases of C.
// Gray and D. Cheriton, 1989.)

// locks is this process's part. follow's goroutine watches, one goroutine renews, one calls OnLost,
// one ends the waits in an outage, and a few exchange writes with the servers for all locks.
type locks struct {
	c *Cache
	n *connection
	b *bucket

	mu      sync.Mutex
	keys    map[string]*lockKey // by subject token
	members map[string]*lockKey // the keys of members
	last    []Member            // the last result of Members
	procs   map[string]*lockProc
	owners  map[services.Owner]map[*lockItem]struct{}
	alive   time.Time   // end of this process's lease; zero before the first renewal
	lapse   *time.Timer // runs at alive
	from    time.Time   // no lock is taken before this time, after a store was lost
	round   int         // counts full reports of follow
	echo    uint64      // the last write of our own lease that follow has reported
	held    int64
	waits   int64
	closed  bool
	work    []*lockKey // keys to be processed; each at most once
	wake    *sync.Cond
	losses  []*lockItem // whose OnLost is to be called
	told    *sync.Cond

	list atomic.Pointer[memberList] // nil if it must be rebuilt; stored under mu

	own uint64 // the sequence of our lease; used by the renewing goroutine

	run     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// lockWorkers is the largest number of concurrent exchanges.
const lockWorkers = 8

// lockKey is one lock: what this process knows of it and wants from it. Guarded by locks.mu.
type lockKey struct {
	key   string // a subject token
	rev   uint64 // the subject's last sequence as known; 0 = none
	taken bool   // rev is the write of a holder
	proc  string // the holder's process
	until time.Time
	round int
	idle  time.Time // since when it is unused

	held  *lockItem   // ours; its token is rev
	waits []*lockItem // oldest first
	fault error       // why the last attempt to take it failed; nil: it did not, or others have it
	busy  bool        // a worker is processing it, or it is in work
	again bool        // process it again afterwards
	timer *time.Timer
}

// lockItem is one Lock call.
type lockItem struct {
	o     services.LockOptions
	done  func(uint64, error)
	key   *lockKey // nil once it has ended; guarded by locks.mu
	token uint64
	until time.Time // the wait's end
	once  bool      // it does not wait: a single attempt
	asked bool      // the servers were asked since it arrived
	given bool      // released by its holder: its end is not a loss

	told, released bool // guarded by locks.mu; done was called with its token; released by its owner
}

// lockValue is the value that a holder writes.
type lockValue struct {
	Proc string `json:"proc"`
	TTL  int64  `json:"ttl_ms"`
}

func newLocks(c *Cache, n *connection, b *bucket) *locks {
	l := &locks{c: c, n: n, b: b, keys: map[string]*lockKey{}, members: map[string]*lockKey{}, procs: map[string]*lockProc{},
		owners: map[services.Owner]map[*lockItem]struct{}{}}
	l.wake, l.told = sync.NewCond(&l.mu), sync.NewCond(&l.mu)
	l.run, l.cancel = context.WithCancel(context.Background())
	return l
}

// start renews once, reads the existing locks, and starts the goroutines.
func (l *locks) start(ctx context.Context) error {
	if err := l.renew(ctx); err != nil {
		l.cancel()
		return err
	}
	whole := make(chan struct{})
	var once sync.Once
	l.running.Go(func() {
		l.b.follow(l.run, ">", l.n.again, observer{l.begin, l.see, func() {
			l.settle()
			once.Do(func() { close(whole) })
		}})
	})
	err := error(nil)
	select {
	case <-whole:
	case <-ctx.Done():
		err = fmt.Errorf("cluster: read the locks: %w", ctx.Err())
	case <-time.After(5 * l.c.cfg.Timeout):
		err = fmt.Errorf("cluster: read the locks: %w: not within %v", services.ErrCacheDown, 5*l.c.cfg.Timeout)
	}
	if err != nil {
		l.cancel()
		return err
	}
	l.waitOut()
	l.running.Go(l.renewals)
	l.running.Go(l.tellLosses)
	l.running.Go(l.outages)
	for range lockWorkers {
		l.running.Go(l.worker)
	}
	return nil
}

// stop ends the waits and releases the locks until ctx ends. The goroutines end when the connection
// is closed.
func (l *locks) stop(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.lapse.Stop()
	l.endWaits(services.ErrCacheClosed)
	var held []write
	for _, k := range l.keys {
		if k.held != nil {
			held = append(held, write{key: k.key, purge: true, ttl: markerTTL, expect: int64(k.held.token)})
			l.lose(k)
		}
		if k.timer != nil {
			k.timer.Stop()
		}
	}
	l.wake.Broadcast()
	l.told.Broadcast()
	l.mu.Unlock()
	l.cancel()
	var errs []error
	for _, w := range held {
		if _, err := l.b.put(ctx, w); err != nil && !errors.Is(err, errConflict) {
			errs = append(errs, err)
			break // the rest ends with the lease
		}
	}
	if len(errs) == 0 {
		_, _ = l.b.put(ctx, write{key: procPrefix + l.c.proc, purge: true, ttl: markerTTL, expect: -1})
	}
	return errors.Join(errs...)
}

func (l *locks) counts() (held, waits int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held, l.waits
}

// tellLosses calls OnLost, one after the other.
func (l *locks) tellLosses() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.losses) == 0 && !l.closed {
			l.told.Wait()
		}
		if len(l.losses) == 0 {
			return
		}
		it := l.losses[0]
		l.losses = l.losses[1:]
		l.mu.Unlock()
		services.Deliver(it.o.On, it.o.OnLost, nil)
		l.mu.Lock()
	}
}

// begin: records of the whole bucket follow.
func (l *locks) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.round++
}

// settle: records that were not reported no longer exist.
func (l *locks) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.procs {
		if p.round != l.round {
			p.rev = 0
		}
	}
	for _, k := range l.keys {
		if k.round != l.round && k.rev != 0 && !k.busy {
			l.learn(k, record{})
		}
		l.kick(k)
	}
}

// see processes a record of the bucket.
func (l *locks) see(key string, r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if proc, ok := strings.CutPrefix(key, procPrefix); ok {
		if proc == l.c.proc {
			l.echo = max(l.echo, r.rev)
			return
		}
		l.hear(proc, r)
		return
	}
	k := l.keys[key]
	if k == nil {
		if !r.present {
			return
		}
		k = l.addKey(key)
	}
	k.round = l.round
	if r.rev > k.rev {
		l.learn(k, r)
		l.kick(k)
	}
}

// learn stores a record of the lock's subject. l.mu is held.
func (l *locks) learn(k *lockKey, r record) {
	k.rev, k.taken, k.round = r.rev, r.present, l.round
	if k.isMember() {
		l.changed()
	}
	if k.held != nil && k.held.token != r.rev {
		l.lose(k)
	}
	if !r.present {
		return
	}
	var v lockValue
	if json.Unmarshal(r.value, &v) != nil {
		v = lockValue{} // an unknown format: not a holder that we can wait for
	}
	ttl := min(time.Duration(v.TTL), longestTTL) * time.Millisecond
	k.proc = v.Proc
	k.until = timeNow().Add(ttl + margin(min(ttl, l.c.cfg.Lease)))
	if v.Proc != l.c.proc {
		l.proc(v.Proc)
	}
}

// longestTTL stands for no limit, in milliseconds.
const longestTTL = time.Duration(1<<61) / time.Millisecond

// free reports whether the lock may be taken now. l.mu is held.
func (l *locks) free(k *lockKey, now time.Time) bool {
	switch {
	case !k.taken:
		return true
	case k.held != nil:
		return false
	case k.proc == l.c.proc:
		return true // written by this process, but not held here: a leftover
	case !now.Before(k.until):
		return true
	}
	return k.rev < l.proc(k.proc).buried
}

// lose ends our hold of the lock, and notifies its owner unless it released it. l.mu is held.
func (l *locks) lose(k *lockKey) {
	it := k.held
	k.held = nil
	l.held--
	if k.isMember() {
		l.changed()
	}
	l.end(it)
	if it.o.OnLost != nil && !it.given {
		l.losses = append(l.losses, it)
		l.told.Signal()
	}
}

// end removes the item from its owner. l.mu is held.
func (l *locks) end(it *lockItem) {
	it.key = nil
	set := l.owners[it.o.Owner]
	delete(set, it)
	if len(set) == 0 {
		delete(l.owners, it.o.Owner)
	}
}

// tidy drops keys that were unused for some time, and removes locks whose holders died long ago.
func (l *locks) tidy() {
	const most = 64
	l.mu.Lock()
	defer l.mu.Unlock()
	now := timeNow()
	past := now.Add(-2 * l.c.cfg.Lease)
	n := 0
	for _, k := range l.keys {
		switch {
		case k.busy || k.held != nil || len(k.waits) > 0:
			k.idle = now
		case !k.taken && now.Sub(k.idle) > markerTTL:
			if k.timer != nil {
				k.timer.Stop()
			}
			l.dropKey(k)
		case k.taken && n < most && (l.free(k, past) || (k.proc != l.c.proc && l.silent(k).Before(past))):
			n++
			l.kick(k)
		}
	}
	for name, p := range l.procs {
		if now.Sub(p.seen) > time.Minute+p.lease && !l.holds(name) {
			delete(l.procs, name)
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
