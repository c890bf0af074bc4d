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

// How a lock works. It is one subject of the lock bucket; who writes it on top
// of the last sequence that he knows of has it, and that write's own sequence
// is the fencing token: the servers decide, nobody else. Every process watches
// the bucket, to learn what changes and when to look again. Nothing is decided
// by what a watch has not told.
//
// A process writes a subject of its own, its lease, three times a lease, each
// time on top of its last write. Who has known one write of it for a lease asks
// the servers to put a mark on top of just that write: if they do, the process
// has not renewed since, it is buried, and all locks that it took before the
// mark are free. If they don't, it lives, and the lease is counted anew. A
// process that finds a mark on its lease has lost its locks, and begins again
// on top of the mark.
//
// Time runs on each process's own monotonic clock, nobody compares clocks: a
// holder counts its lease and its ttl from before it wrote, the others from when
// they learned of the write, and a tenth more, so a holder's time is always up
// first. (The reasoning of the leases of C. Gray and D. Cheriton, 1989.)

// locks is this process's part. follow's goroutine watches, one renews, one
// tells of losses, and a few exchange writes with the servers for all locks.
type locks struct {
	c *Cache
	n *connection
	b *bucket

	mu      sync.Mutex
	keys    map[string]*lockKey // by subject token
	members map[string]*lockKey // of keys, those of members
	last    []Member            // that Members told
	procs   map[string]*lockProc
	owners  map[services.Owner]map[*lockItem]struct{}
	alive   time.Time   // this process's lease ends; zero before the first renewal
	lapse   *time.Timer // runs then
	from    time.Time   // no lock is taken before: a store that was lost is waited out
	round   int         // of what follow tells
	echo    uint64      // the last write of our own lease that follow has told
	held    int64
	waits   int64
	closed  bool
	work    []*lockKey // to be looked at; each at most once
	wake    *sync.Cond
	losses  []*lockItem // whose OnLost is to be called
	told    *sync.Cond

	list atomic.Pointer[memberList] // nil: to be made anew; stored under mu

	own uint64 // the sequence of our lease; the renewing goroutine's

	run     context.Context
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
	round int
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
	given bool      // its holder has given it up: an end is no loss

	told, released bool // guarded by locks.mu; done has its token; its owner has let it go
}

// lockValue is what a holder writes.
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

// start renews once, reads what is held, and starts the goroutines.
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
			break // the lease ends the rest
		}
	}
	if len(errs) == 0 {
		_, _ = l.b.put(ctx, write{key: procPrefix + l.c.proc, purge: true, ttl: markerTTL, expect: -1})
	}
	return errors.Join(errs...)
}

// endWaits answers all waits with err. l.mu is held; the answers run later.
func (l *locks) endWaits(err error) {
	for _, k := range l.keys {
		for _, it := range k.waits {
			l.waits--
			l.end(it)
			go services.Deliver(it.o.On, func() { it.done(0, err) }, nil)
		}
		k.waits = nil
	}
}

// refuseAll ends everything: the store is not to be trusted.
func (l *locks) refuseAll(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive = time.Time{}
	l.changed()
	l.loseAll()
	l.endWaits(err)
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

// begin: all that stands in the bucket comes now.
func (l *locks) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.round++
}

// settle: what has not come is not there any more.
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

// see takes in a record of the bucket.
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

// learn stores what stands under the lock's subject. l.mu is held.
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
		v = lockValue{} // not a holder that we know how to wait for
	}
	ttl := min(time.Duration(v.TTL), longestTTL) * time.Millisecond
	k.proc = v.Proc
	k.until = timeNow().Add(ttl + margin(min(ttl, l.c.cfg.Lease)))
	if v.Proc != l.c.proc {
		l.proc(v.Proc)
	}
}

// longestTTL is for good, in milliseconds.
const longestTTL = time.Duration(1<<61) / time.Millisecond

// free says whether the lock may be taken now. l.mu is held.
func (l *locks) free(k *lockKey, now time.Time) bool {
	switch {
	case !k.taken:
		return true
	case k.held != nil:
		return false
	case k.proc == l.c.proc:
		return true // written by us, but nobody here holds it: left over
	case !now.Before(k.until):
		return true
	}
	return k.rev < l.proc(k.proc).buried
}

// lose ends our holding of the lock, and has its owner told unless it gave it
// up. l.mu is held.
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
