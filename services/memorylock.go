package services

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// memoryLock is a held lock; a free one has no state. Guarded by its shard's mutex.
type memoryLock struct {
	key    string
	holder *memoryLockItem
	first  *memoryLockItem // list of waits, oldest first
	last   *memoryLockItem
}

// memoryLockItem is one Lock call: waiting, then possibly holding the lock. Guarded by its shard's
// mutex, except the first block of fields, which are constant.
type memoryLockItem struct {
	key   string
	ttl   time.Duration
	owner Owner
	on    Submitter
	done  func(token uint64, err error)
	lost  func() // OnLost, or nil

	lock       *memoryLock // nil after its end
	token      uint64      // 0 while it waits
	told       bool        // done was called with its token
	released   bool        // by its owner: done will not be called
	prev, next *memoryLockItem
	deadline   deadline // first of the wait, then of the lock
}

// owners finds the items of an owner. Its mutex is locked while a shard's is held.
type owners struct {
	mu    sync.Mutex
	items map[Owner]map[*memoryLockItem]uint64 // guarded by mu; the value is the order of arrival
	came  uint64                               // guarded by mu; the last order of arrival
}

// add registers the item, unless its owner already has limit items.
func (o *owners) add(it *memoryLockItem, limit int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := o.items[it.owner]
	if it.owner != nil && len(set) >= limit {
		return false
	}
	if set == nil {
		set = map[*memoryLockItem]uint64{}
		o.items[it.owner] = set
	}
	o.came++
	set[it] = o.came
	return true
}

func (o *owners) remove(it *memoryLockItem) {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := o.items[it.owner]
	delete(set, it)
	if len(set) == 0 {
		delete(o.items, it.owner)
	}
}

// list returns an owner's items, the last to arrive first: so none of its waits is granted a lock
// that it releases.
func (o *owners) list(owner Owner) []*memoryLockItem {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := o.items[owner]
	list := make([]*memoryLockItem, 0, len(set))
	for it := range set {
		list = append(list, it)
	}
	slices.SortFunc(list, func(a, b *memoryLockItem) int { return cmp.Compare(set[b], set[a]) })
	return list
}

// Lock implements Cache.
func (m *Memory) Lock(key string, o LockOptions, done func(uint64, error)) (func() bool, error) {
	switch {
	case m.closed.Load():
		return nil, ErrCacheClosed
	case len(key) > m.cfg.MaxKey:
		return nil, ErrCacheKey
	case o.TTL < time.Millisecond || o.Wait < 0:
		return nil, fmt.Errorf("services: lock for %v, wait %v: out of range", o.TTL, o.Wait)
	}
	it := &memoryLockItem{key: key, ttl: o.TTL, owner: o.Owner, on: o.On, done: done, lost: o.OnLost}
	if o.Renew {
		it.ttl = 1<<63 - 1 // ends only with the owner or the process
	}
	it.deadline.lock = it
	s := m.shard(key)
	var after actions
	s.mu.Lock()
	err := m.enter(s, it, o.Wait, &after)
	s.mu.Unlock()
	after.run()
	if err != nil {
		return nil, err
	}
	return func() bool { return m.cancelWait(it) }, nil
}

// enter takes the lock, queues for it, or reports that it is taken.
func (m *Memory) enter(s *memoryShard, it *memoryLockItem, wait time.Duration, after *actions) error {
	if l := s.locks[it.key]; l != nil && l.holder.deadline.at <= m.now() {
		m.expireLock(s, l.holder, after) // before its timer does
	}
	l := s.locks[it.key]
	if l != nil && wait == 0 {
		after.add(func() { deliver(it.on, func() { it.done(0, nil) }, nil) })
		return nil
	}
	if m.locks.Load()+m.waits.Load() >= int64(m.cfg.MaxLocks) || !m.owners.add(it, m.cfg.MaxPerOwner) {
		m.refused.Add(1)
		return ErrCacheFull
	}
	if l == nil {
		l = &memoryLock{key: it.key}
		s.locks[it.key] = l
		it.lock = l
		m.grant(s, it, after)
		return nil
	}
	it.lock = l
	l.push(it)
	m.waits.Add(1)
	s.due.add(&it.deadline, m.after(wait))
	m.arm(s)
	return nil
}

// grant makes the item the holder; the shard is locked and the lock has no holder.
func (m *Memory) grant(s *memoryShard, it *memoryLockItem, after *actions) {
	it.lock.holder = it
	it.token = m.token.Add(1)
	m.locks.Add(1)
	s.due.remove(&it.deadline)
	s.due.add(&it.deadline, m.after(it.ttl))
	m.arm(s)
	token := it.token
	after.add(func() {
		deliver(it.on, func() {
			if m.tells(it) {
				it.done(token, nil)
			}
		}, func() { m.unlock(it.key, token) })
	})
}

// tells records that done will be called with the token; false if the owner has released the lock
// before.
func (m *Memory) tells(it *memoryLockItem) bool {
	s := m.shard(it.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	it.told = !it.released
	return it.told
}

// end removes the item from its lock; if the lock becomes free, it is granted to the first waiter.
// The shard is locked.
func (m *Memory) end(s *memoryShard, it *memoryLockItem, after *actions) {
	l := it.lock
	it.lock = nil
	s.due.remove(&it.deadline)
	m.owners.remove(it)
	if l.holder != it {
		l.unlink(it)
		m.waits.Add(-1)
		return
	}
	l.holder = nil
	m.locks.Add(-1)
	next := l.first
	if next == nil {
		delete(s.locks, l.key)
		return
	}
	l.unlink(next)
	m.waits.Add(-1)
	m.grant(s, next, after)
}

// expireLock ends a lock whose TTL has passed, or a wait whose time has passed.
func (m *Memory) expireLock(s *memoryShard, it *memoryLockItem, after *actions) {
	waiting := it.lock.holder != it
	if !waiting {
		it.tellLoss(after) // before end grants it to the next
	}
	m.end(s, it, after)
	m.expired.Add(1)
	if waiting {
		after.add(func() { deliver(it.on, func() { it.done(0, nil) }, nil) })
	}
}

// abandon ends a lock and all its waits, for Stop. The shard is locked.
func (m *Memory) abandon(s *memoryShard, l *memoryLock, after *actions) {
	for l.first != nil {
		it := l.first
		m.end(s, it, after)
		after.add(func() { deliver(it.on, func() { it.done(0, ErrCacheClosed) }, nil) })
	}
	l.holder.tellLoss(after)
	m.end(s, l.holder, after)
}

// tellLoss arranges for the holder's OnLost to be called.
func (it *memoryLockItem) tellLoss(after *actions) {
	if it.lost != nil {
		after.add(func() { deliver(it.on, it.lost, nil) })
	}
}

func (m *Memory) cancelWait(it *memoryLockItem) bool {
	s := m.shard(it.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.lock == nil || it.lock.holder == it {
		return it.released && !it.told
	}
	m.end(s, it, nil) // ending a wait grants nothing
	return true
}

// Unlock implements Cache.
func (m *Memory) Unlock(_ context.Context, key string, token uint64) (bool, error) {
	if m.closed.Load() {
		return false, ErrCacheClosed
	}
	return m.unlock(key, token), nil
}

func (m *Memory) unlock(key string, token uint64) bool {
	s := m.shard(key)
	var after actions
	s.mu.Lock()
	l := s.locks[key]
	ok := l != nil && l.holder.token == token && l.holder.deadline.at > m.now()
	if ok {
		m.end(s, l.holder, &after)
	}
	s.mu.Unlock()
	after.run()
	return ok
}

// Release implements Cache.
func (m *Memory) Release(owner Owner) int {
	n := 0
	for _, it := range m.owners.list(owner) {
		s := m.shard(it.key)
		var after actions
		s.mu.Lock()
		if it.lock != nil {
			it.released = true
			m.end(s, it, &after)
			n++
		}
		s.mu.Unlock()
		after.run()
	}
	return n
}

// push appends the item to the waits.
func (l *memoryLock) push(it *memoryLockItem) {
	it.prev = l.last
	if l.last != nil {
		l.last.next = it
	} else {
		l.first = it
	}
	l.last = it
}

// unlink removes the item from the waits.
func (l *memoryLock) unlink(it *memoryLockItem) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		l.first = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		l.last = it.prev
	}
	it.prev, it.next = nil, nil
}
