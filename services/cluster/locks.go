package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
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

	mu     sync.Mutex
	keys   map[string]*lockKey // by subject token
	procs  map[string]*lockProc
	owners map[services.Owner]map[*lockItem]struct{}
	alive  time.Time   // this process's lease ends; zero before the first renewal
	lapse  *time.Timer // runs then
	from   time.Time   // no lock is taken before: a store that was lost is waited out
	round  int         // of what follow tells
	echo   uint64      // the last write of our own lease that follow has told
	held   int64
	waits  int64
	closed bool
	work   []*lockKey // to be looked at; each at most once
	wake   *sync.Cond
	losses []*lockItem // whose OnLost is to be called
	told   *sync.Cond

	own uint64 // the sequence of our lease; the renewing goroutine's

	run     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// lockProc is another process, as far as is known. Guarded by locks.mu.
type lockProc struct {
	rev    uint64        // the last sequence of its lease; 0 = there is none
	seen   time.Time     // when rev was learned
	lease  time.Duration // as the process says
	buried uint64        // the last mark on it: locks with lower tokens are free
	round  int
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
}

// lockValue is what a holder writes.
type lockValue struct {
	Proc string `json:"proc"`
	TTL  int64  `json:"ttl_ms"`
}

// procValue is a process's lease.
type procValue struct {
	Lease int64 `json:"lease_ms"`
}

const procPrefix = "p"

func newLocks(c *Cache, n *connection, b *bucket) *locks {
	l := &locks{c: c, n: n, b: b, keys: map[string]*lockKey{}, procs: map[string]*lockProc{},
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

// waitOut has locks wait for a lease where holders may live of whom this store
// doesn't know: it was made anew beside values that are older, or it is a copy
// in which processes live that have written nothing for a lease.
func (l *locks) waitOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := l.c.cfg.Lease
	others := false
	for _, p := range l.procs {
		others = others || p.rev > p.buried
		lease = max(lease, p.lease)
	}
	if (l.b.made && !l.n.values.made) || (others && l.b.nowAt.Sub(l.b.lastAt) > lease) {
		l.from = time.Now().Add(lease + margin(lease))
	}
}

// margin is how much longer than a holder the others count.
func margin(d time.Duration) time.Duration { return d / 10 }

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
	l.loseAll()
	l.endWaits(err)
}

func (l *locks) counts() (held, waits int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held, l.waits
}

// renewals keeps this process's locks, looks after the store at each new
// connection, and forgets and cleans up what nobody wants.
func (l *locks) renewals() {
	t := time.NewTicker(l.c.cfg.Lease / 3)
	defer t.Stop()
	again := l.n.again.next()
	for {
		select {
		case <-l.run.Done():
			return
		case <-again:
			again = l.n.again.next()
		case <-t.C:
			l.listen()
		}
		if l.n.lost.Load() != nil {
			continue
		}
		err := error(nil)
		if !l.n.checked.Load() {
			err = l.n.check(l.run)
		}
		if err == nil {
			err = l.n.accept(l.renew(l.run))
		}
		if err != nil && l.run.Err() == nil {
			l.c.cfg.Logger.Warn("cluster: lease not renewed", "err", err)
		}
		l.tidy()
	}
}

// listen has the watch begin anew when it has not told of our own last renewal.
func (l *locks) listen() {
	l.mu.Lock()
	deaf := l.echo < l.own
	l.mu.Unlock()
	if deaf && l.n.nc.IsConnected() {
		l.n.again.fire()
	}
}

// renew writes this process's lease on top of its last write.
func (l *locks) renew(ctx context.Context) error {
	value, _ := json.Marshal(procValue{Lease: l.c.cfg.Lease.Milliseconds()})
	key := procPrefix + l.c.proc
	for {
		start := time.Now()
		seq, err := l.b.put(ctx, write{key: key, value: value, expect: int64(l.own), room: true})
		if err == nil {
			l.renewed(start, seq)
			return nil
		}
		if !errors.Is(err, errConflict) {
			return err
		}
		r, err := l.b.get(ctx, key)
		switch {
		case err != nil:
			return err
		case r.present && r.rev > l.own:
			l.own = r.rev // a write of ours, whose answer was lost
			continue
		case r.rev != 0 && r.rev <= l.own:
			return fmt.Errorf("%w: our lease is at %d and was at %d", errReplaced, r.rev, l.own)
		}
		// Somebody has buried us.
		l.mu.Lock()
		l.alive = time.Time{}
		l.loseAll()
		l.mu.Unlock()
		if err := l.n.check(ctx); err != nil {
			return err
		}
		l.own = r.rev
	}
}

func (l *locks) renewed(start time.Time, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = seq
	if !time.Now().Before(l.alive) {
		l.loseAll() // of the lease that has lapsed
	}
	l.alive = start.Add(l.c.cfg.Lease)
	if l.lapse == nil {
		l.lapse = time.AfterFunc(time.Until(l.alive), l.lapsed)
	}
	l.lapse.Reset(time.Until(l.alive))
	for _, k := range l.keys {
		if len(k.waits) > 0 && k.held == nil {
			l.kick(k) // what could not be taken without a lease
		}
	}
}

// lapsed ends our holdings with the lease.
func (l *locks) lapsed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && !time.Now().Before(l.alive) {
		l.c.expired.Add(l.held)
		l.loseAll()
	}
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
		k = &lockKey{key: key, idle: time.Now()}
		l.keys[key] = k
	}
	k.round = l.round
	if r.rev > k.rev {
		l.learn(k, r)
		l.kick(k)
	}
}

// proc returns what is known of a process. l.mu is held.
func (l *locks) proc(name string) *lockProc {
	p := l.procs[name]
	if p == nil {
		p = &lockProc{seen: time.Now(), lease: l.c.cfg.Lease, round: l.round}
		l.procs[name] = p
	}
	return p
}

// hear takes in what stands under a process's lease. l.mu is held.
func (l *locks) hear(name string, r record) {
	p := l.proc(name)
	p.round = l.round
	if r.rev <= p.rev && r.rev != 0 {
		return
	}
	p.rev = r.rev
	switch {
	case r.present:
		p.seen, p.lease = time.Now(), l.c.cfg.Lease
		var v procValue
		if json.Unmarshal(r.value, &v) == nil && v.Lease > 0 {
			p.lease = time.Duration(min(v.Lease, int64(longestTTL))) * time.Millisecond
		}
	case r.rev != 0:
		p.buried = max(p.buried, r.rev)
		for _, k := range l.keys {
			if k.taken && k.proc == name {
				l.kick(k)
			}
		}
	}
}

// learn stores what stands under the lock's subject. l.mu is held.
func (l *locks) learn(k *lockKey, r record) {
	k.rev, k.taken, k.round = r.rev, r.present, l.round
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
	k.until = time.Now().Add(ttl + margin(min(ttl, l.c.cfg.Lease)))
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

// silent is when the process that holds the lock has shown no life for its
// lease. Only the servers can say then whether it lives. l.mu is held.
func (l *locks) silent(k *lockKey) time.Time {
	p := l.proc(k.proc)
	return p.seen.Add(p.lease + margin(p.lease))
}

// bury asks the servers to put the mark on the lease of k's holder, and says
// what came of it; nil means that there is news. l.mu is held.
func (l *locks) bury(k *lockKey) error {
	name := k.proc
	p := l.proc(name)
	key, rev := procPrefix+name, p.rev
	l.mu.Unlock()
	seq, err := l.b.put(context.Background(), write{key: key, purge: true, ttl: markerTTL, expect: int64(rev)})
	r := record{rev: seq}
	if errors.Is(err, errConflict) {
		r, err = l.b.get(context.Background(), key)
	} else if err == nil && seq == 0 { // the mark found no room
		r, err = l.b.get(context.Background(), key)
	}
	l.mu.Lock()
	if err != nil {
		return err
	}
	if r.rev == rev && r.present {
		return fmt.Errorf("cluster: lease of %s: %w", name, errConflict) // the leader has changed its mind
	}
	l.hear(name, r)
	return nil
}

// lose ends our holding of the lock, and has its owner told unless it gave it
// up. l.mu is held.
func (l *locks) lose(k *lockKey) {
	it := k.held
	k.held = nil
	l.held--
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
	now := time.Now()
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
			delete(l.keys, k.key)
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
