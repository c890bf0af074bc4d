package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryConfig configures the in-process cache. Zero fields mean the defaults.
type MemoryConfig struct {
	// MaxEntries limits the number of keys; default 1,048,576.
	MaxEntries int
	// MaxBytes limits keys plus values, in bytes; default 256 MiB.
	MaxBytes int64
	// MaxKey and MaxValue limit the size of each, in bytes; default 512 and 1 MiB.
	MaxKey, MaxValue int
	// MaxLocks limits held locks plus waits for locks; default 262,144.
	MaxLocks int
	// MaxPerOwner limits those of one owner (except nil); default 1,024.
	MaxPerOwner int
	// MaxWatches limits the watches; default 65,536.
	MaxWatches int
	// Evict makes room for a new key by removing the least recently used of a sample of 8 keys. By
	// default a new key over a limit is refused with ErrCacheFull, and existing keys are kept.
	Evict bool
}

func (c MemoryConfig) withDefaults() MemoryConfig {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MaxEntries, 1<<20)
	def(&c.MaxKey, 512)
	def(&c.MaxValue, 1<<20)
	def(&c.MaxLocks, 1<<18)
	def(&c.MaxPerOwner, 1024)
	def(&c.MaxWatches, 1<<16)
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	return c
}

func (c MemoryConfig) validate() error {
	if c.MaxEntries < 0 || c.MaxBytes < 0 || c.MaxKey < 0 || c.MaxValue < 0 ||
		c.MaxLocks < 0 || c.MaxPerOwner < 0 || c.MaxWatches < 0 {
		return errors.New("services: a limit of the cache is negative")
	}
	return nil
}

// memoryShards is a power of two, well above the number of processors.
const memoryShards = 64

// Memory is the Cache of one process: 64 shards, each a map guarded by a mutex, with one timer for
// its earliest deadline. It starts no goroutine. It works from NewMemory until Stop; Start opens it
// again.
//
// It does not use a cache library, because locks, waits, watches and byte accounting must change
// together with the map under the shard's mutex, and because keys are not evicted by default.
type Memory struct {
	cfg    MemoryConfig
	seed   maphash.Seed
	base   time.Time // deadlines are nanoseconds since base, on the monotonic clock
	closed atomic.Bool

	revision atomic.Uint64 // the last revision given out
	token    atomic.Uint64 // the last fencing token given out

	entries, bytes, locks, waits, watches atomic.Int64
	expired, evicted, refused             atomic.Uint64

	shards [memoryShards]memoryShard
	owners owners
}

// memoryShard holds the keys with one value of the hash modulo memoryShards.
type memoryShard struct {
	mu       sync.Mutex
	entries  map[string]*memoryEntry
	locks    map[string]*memoryLock
	watchers map[string][]*Watcher

	due   deadlines   // all deadlines, earliest first
	timer *time.Timer // runs at due[0]; nil until first used
	armed int64       // the deadline that timer is set to; 0 = none
}

// memoryEntry is guarded by its shard's mutex.
type memoryEntry struct {
	key      string
	value    []byte // replaced, never modified
	revision uint64
	used     int64 // time of the last read or write
	deadline deadline
}

// NewMemory returns a running cache. It returns an error for an invalid setting.
func NewMemory(cfg MemoryConfig) (*Memory, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Memory{cfg: cfg.withDefaults(), seed: maphash.MakeSeed(), base: time.Now().Add(-1)}
	// Tokens must not be below those of this process's last run; a cache issues less than one per
	// microsecond.
	m.token.Store(uint64(m.base.UnixMicro()))
	m.owners.items = map[Owner]map[*memoryLockItem]uint64{}
	for i := range m.shards {
		s := &m.shards[i]
		s.entries = map[string]*memoryEntry{}
		s.locks = map[string]*memoryLock{}
		s.watchers = map[string][]*Watcher{}
	}
	return m, nil
}

// Start opens a stopped cache again, empty.
func (m *Memory) Start(context.Context) error {
	m.closed.Store(false)
	return nil
}

// Running reports whether the cache accepts operations.
func (m *Memory) Running() bool { return !m.closed.Load() }

// Stop empties the cache. Waits for locks end with ErrCacheClosed.
func (m *Memory) Stop(context.Context) error {
	if m.closed.Swap(true) {
		return nil
	}
	for i := range m.shards {
		m.clear(&m.shards[i])
	}
	return nil
}

func (m *Memory) clear(s *memoryShard) {
	var after actions
	s.mu.Lock()
	for _, e := range s.entries {
		m.drop(s, e)
	}
	for _, l := range s.locks {
		m.abandon(s, l, &after)
	}
	for key, ws := range s.watchers {
		m.watches.Add(-int64(len(ws)))
		delete(s.watchers, key)
	}
	if s.timer != nil {
		s.timer.Stop()
		s.armed = 0
	}
	s.mu.Unlock()
	after.run()
}

// Stats returns the counters; they are not an atomic snapshot.
func (m *Memory) Stats() CacheStats {
	return CacheStats{
		Entries: m.entries.Load(), Bytes: m.bytes.Load(), Locks: m.locks.Load(),
		Waits: m.waits.Load(), Watches: m.watches.Load(),
		Expired: m.expired.Load(), Evicted: m.evicted.Load(), Refused: m.refused.Load(),
	}
}

func (m *Memory) shard(key string) *memoryShard {
	return &m.shards[maphash.String(m.seed, key)&(memoryShards-1)]
}

// now returns the monotonic time since base, which began at 1; 0 means no deadline.
func (m *Memory) now() int64 { return int64(time.Since(m.base)) }

// after returns the deadline at d from now, saturating.
func (m *Memory) after(d time.Duration) int64 {
	now := m.now()
	if at := now + int64(d); at > now {
		return at
	}
	return 1<<63 - 1
}

// Get implements Cache.
func (m *Memory) Get(_ context.Context, key string) (Entry, error) {
	if m.closed.Load() {
		return Entry{}, ErrCacheClosed
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := m.live(s, key)
	if e == nil {
		return Entry{}, ErrNotFound
	}
	return Entry{Value: e.value, Revision: e.revision}, nil
}

// live returns key's entry unless it has expired; the shard is locked.
func (m *Memory) live(s *memoryShard, key string) *memoryEntry {
	e := s.entries[key]
	if e == nil {
		return nil
	}
	if e.deadline.at == 0 && !m.cfg.Evict {
		return e // saves reading the clock
	}
	now := m.now()
	if e.deadline.at != 0 && e.deadline.at <= now {
		return nil // its timer will remove it
	}
	e.used = now
	return e
}

// Set implements Cache.
func (m *Memory) Set(_ context.Context, key string, val []byte, ttl time.Duration) (uint64, error) {
	_, e, err := m.change(key, val, ttl, func(*memoryEntry) bool { return true })
	return e.Revision, err
}

// CompareAndSet implements Cache.
func (m *Memory) CompareAndSet(_ context.Context, key string, expect, val []byte, ttl time.Duration) (bool, Entry, error) {
	return m.change(key, val, ttl, func(e *memoryEntry) bool {
		if e == nil || expect == nil {
			return e == nil && expect == nil
		}
		return bytes.Equal(e.value, expect)
	})
}

// CompareAndSetRevision implements Cache.
func (m *Memory) CompareAndSetRevision(_ context.Context, key string, rev uint64, val []byte, ttl time.Duration) (bool, Entry, error) {
	return m.change(key, val, ttl, func(e *memoryEntry) bool {
		if e == nil {
			return rev == 0
		}
		return e.revision == rev
	})
}

// change stores val under key if want, called with the present entry, returns true.
func (m *Memory) change(key string, val []byte, ttl time.Duration, want func(*memoryEntry) bool) (bool, Entry, error) {
	if m.closed.Load() {
		return false, Entry{}, ErrCacheClosed
	}
	if len(key) > m.cfg.MaxKey || len(val) > m.cfg.MaxValue {
		return false, Entry{}, ErrCacheKey
	}
	if ttl < 0 {
		return false, Entry{}, fmt.Errorf("services: ttl %v is negative; 0 means no expiry", ttl)
	}
	s := m.shard(key)
	var after actions
	s.mu.Lock()
	e := m.live(s, key)
	if !want(e) {
		now := Entry{}
		if e != nil {
			now = Entry{Value: e.value, Revision: e.revision}
		}
		s.mu.Unlock()
		return false, now, nil
	}
	now, err := m.put(s, key, val, ttl, &after)
	s.mu.Unlock()
	after.run()
	return err == nil, now, err
}

// put stores a copy of val; the shard is locked.
func (m *Memory) put(s *memoryShard, key string, val []byte, ttl time.Duration, after *actions) (Entry, error) {
	e := s.entries[key]
	if err := m.reserve(s, e, key, len(val)); err != nil {
		return Entry{}, err
	}
	if e == nil {
		e = &memoryEntry{key: key}
		e.deadline.entry = e
		s.entries[key] = e
	}
	e.value = append(make([]byte, 0, len(val)), val...)
	e.revision = m.revision.Add(1)
	if m.cfg.Evict {
		e.used = m.now()
	}
	s.due.remove(&e.deadline)
	if ttl > 0 {
		s.due.add(&e.deadline, m.after(ttl))
		m.arm(s)
	}
	now := Entry{Value: e.value, Revision: e.revision}
	notify(s.watchers[key], Event{Key: key, Entry: now, Present: true}, after)
	return now, nil
}

// reserve adds the key's bytes to the count, or fails; the shard is locked.
func (m *Memory) reserve(s *memoryShard, e *memoryEntry, key string, size int) error {
	grow, news := int64(len(key)+size), int64(1)
	if e != nil {
		grow, news = int64(size-len(e.value)), 0
	}
	for {
		n, b := m.entries.Add(news), m.bytes.Add(grow)
		if (news == 0 || n <= int64(m.cfg.MaxEntries)) && (grow <= 0 || b <= m.cfg.MaxBytes) {
			return nil
		}
		m.entries.Add(-news)
		m.bytes.Add(-grow)
		if !m.cfg.Evict || !m.evict(s, e) {
			m.refused.Add(1)
			return ErrCacheFull
		}
	}
}

// evict makes room: in the key's own shard, which is locked, else in another whose mutex is free.
func (m *Memory) evict(s *memoryShard, keep *memoryEntry) bool {
	if m.evictFrom(s, keep) {
		return true
	}
	for i := range m.shards {
		o := &m.shards[i]
		if o == s || !o.mu.TryLock() {
			continue
		}
		ok := m.evictFrom(o, keep)
		o.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// evictFrom removes the least recently used of up to 8 entries other than keep. Map order is random
// enough for sampling.
func (m *Memory) evictFrom(s *memoryShard, keep *memoryEntry) bool {
	var oldest *memoryEntry
	n := 0
	for _, e := range s.entries {
		if e != keep && (oldest == nil || e.used < oldest.used) {
			oldest = e
		}
		if n++; n == 8 {
			break
		}
	}
	if oldest == nil {
		return false
	}
	m.drop(s, oldest)
	m.evicted.Add(1)
	return true
}

// drop removes the entry; the shard is locked.
func (m *Memory) drop(s *memoryShard, e *memoryEntry) {
	s.due.remove(&e.deadline)
	delete(s.entries, e.key)
	m.entries.Add(-1)
	m.bytes.Add(-int64(len(e.key) + len(e.value)))
}

// Delete implements Cache.
func (m *Memory) Delete(_ context.Context, key string) (bool, error) {
	if m.closed.Load() {
		return false, ErrCacheClosed
	}
	s := m.shard(key)
	var after actions
	s.mu.Lock()
	e := m.live(s, key)
	if e != nil {
		m.drop(s, e)
		notify(s.watchers[key], Event{Key: key}, &after)
	}
	s.mu.Unlock()
	after.run()
	return e != nil, nil
}
