package services

import (
	"container/heap"
	"time"
)

// actions are calls of foreign code, to be made after the shard's mutex has been unlocked.
type actions []func()

func (a *actions) add(fn func()) { *a = append(*a, fn) }

func (a actions) run() {
	for _, fn := range a {
		fn()
	}
}

// deadline is the expiry of an entry, of a held lock, or of a wait for a lock. Exactly one of the
// pointers is set.
type deadline struct {
	at    int64 // nanoseconds since Memory.base; 0 = not in the heap
	index int   // in the shard's heap
	entry *memoryEntry
	lock  *memoryLockItem // a held lock or a wait
}

// deadlines is a heap, earliest first. As each deadline knows its index, changing one is cheap and
// stale deadlines need not stay in the heap.
type deadlines []*deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push is for container/heap; use add.
func (d *deadlines) Push(x any) {
	it := x.(*deadline)
	it.index = len(*d)
	*d = append(*d, it)
}

// Pop is for container/heap; use remove.
func (d *deadlines) Pop() any {
	old := *d
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return it
}

func (d *deadlines) add(it *deadline, at int64) {
	it.at = at
	heap.Push(d, it)
}

func (d *deadlines) remove(it *deadline) {
	if it.at == 0 {
		return
	}
	heap.Remove(d, it.index)
	it.at = 0
}

// arm sets the shard's timer to its earliest deadline; the shard is locked. A timer that runs when
// nothing is due only arms itself again, so moving a deadline to a later time costs nothing here.
func (m *Memory) arm(s *memoryShard) {
	if len(s.due) == 0 || (s.armed != 0 && s.armed <= s.due[0].at) || m.closed.Load() {
		return
	}
	s.armed = s.due[0].at
	wait := time.Duration(max(0, s.armed-m.now()))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, func() { m.expire(s) })
		return
	}
	s.timer.Reset(wait)
}

// expire removes what is due, and unlocks the shard between steps. It runs on the timer's
// goroutine.
func (m *Memory) expire(s *memoryShard) {
	const step = 256
	for {
		var after actions
		s.mu.Lock()
		n := 0
		for ; n < step && len(s.due) > 0 && s.due[0].at <= m.now(); n++ {
			m.expireOne(s, s.due[0], &after)
		}
		if n < step {
			s.armed = 0
			m.arm(s)
		}
		s.mu.Unlock()
		after.run()
		if n < step {
			return
		}
	}
}

func (m *Memory) expireOne(s *memoryShard, d *deadline, after *actions) {
	if e := d.entry; e != nil {
		m.drop(s, e)
		m.expired.Add(1)
		notify(s.watchers[e.key], Event{Key: e.key}, after)
		return
	}
	m.expireLock(s, d.lock, after)
}
