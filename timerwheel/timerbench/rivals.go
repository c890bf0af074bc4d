package timerbench

import (
	"context"
	"sync"
	"time"

	"github.com/RussellLuo/timingwheel"

	"millrace/timerwheel"
)

// Ours is timerwheel.Service, as it comes.
func Ours() Rival {
	return Rival{Name: "millrace", Make: func(sub timerwheel.Submitter) Timers {
		s, err := timerwheel.New(timerwheel.Config{}, sub)
		if err == nil {
			err = s.Start(context.Background())
		}
		if err != nil {
			panic(err)
		}
		return ours{s}
	}}
}

type ours struct{ *timerwheel.Service }

func (o ours) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := o.Stop(ctx); err != nil {
		panic(err)
	}
}

// Std is one time.AfterFunc for each timer.
func Std() Rival {
	return Rival{Name: "std", Make: func(sub timerwheel.Submitter) Timers {
		return newKeyed(sub, func(d time.Duration, fn func()) handle {
			return stdHandle{time.AfterFunc(d, fn)}
		}, func() {})
	}}
}

// Library is one entry of github.com/RussellLuo/timingwheel for each timer.
func Library() Rival {
	return Rival{Name: "library", Make: func(sub timerwheel.Submitter) Timers {
		w := timingwheel.NewTimingWheel(time.Millisecond, 512)
		w.Start()
		return newKeyed(sub, func(d time.Duration, fn func()) handle {
			return libraryHandle{w.AfterFunc(d, fn)}
		}, w.Stop)
	}}
}

// A handle is one timer of what lies beneath a keyed service.
type handle interface {
	stop()
	// again restarts it in place, or returns false if that can't be done.
	again(d time.Duration) bool
}

type stdHandle struct{ t *time.Timer }

func (h stdHandle) stop()                      { h.t.Stop() }
func (h stdHandle) again(d time.Duration) bool { h.t.Reset(d); return true }

type libraryHandle struct{ t *timingwheel.Timer }

func (h libraryHandle) stop()                    { h.t.Stop() }
func (h libraryHandle) again(time.Duration) bool { return false }

const keyedShards = 8

// keyed is the obvious service: a map of timers, each with one of the runtime's
// or the library's; a generation check before the call; repeats that don't
// drift. It is as careful as it can be made without changing that idea.
type keyed struct {
	sub    timerwheel.Submitter
	after  func(time.Duration, func()) handle
	end    func()
	base   time.Time
	shards [keyedShards]keyedShard
}

type keyedShard struct {
	mu sync.Mutex
	m  map[timerwheel.TimerID]*keyedTimer
	_  [48]byte
}

type keyedTimer struct {
	k     *keyed
	id    timerwheel.TimerID
	fn    func(timerwheel.Firing)
	every time.Duration
	due   time.Duration // since keyed.base
	n     uint64
	left  int64
	gen   uint64
	h     handle
	fire  func()
}

func newKeyed(sub timerwheel.Submitter, after func(time.Duration, func()) handle, end func()) *keyed {
	k := &keyed{sub: sub, after: after, end: end, base: time.Now()}
	for i := range k.shards {
		k.shards[i].m = map[timerwheel.TimerID]*keyedTimer{}
	}
	return k
}

func (k *keyed) shard(id timerwheel.TimerID) *keyedShard { return &k.shards[id%keyedShards] }

func (k *keyed) SetTimer(id timerwheel.TimerID, every time.Duration, repeat int, fn func(timerwheel.Firing)) error {
	sh := k.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.m[id]
	if t == nil {
		t = &keyedTimer{k: k, id: id}
		sh.m[id] = t
	}
	t.gen++
	t.fn, t.every, t.n, t.left = fn, every, 0, int64(repeat)
	if repeat == 0 {
		t.left = -1
	}
	t.due = time.Since(k.base) + every
	t.arm(every)
	return nil
}

// arm has the timer fire after d. Its shard is locked.
func (t *keyedTimer) arm(d time.Duration) {
	if t.h != nil && t.h.again(d) {
		return
	}
	if t.h != nil {
		t.h.stop()
	}
	if t.fire == nil {
		t.fire = t.up
	}
	t.h = t.k.after(d, t.fire)
}

func (k *keyed) KillTimer(id timerwheel.TimerID) bool {
	sh := k.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.m[id]
	if t == nil {
		return false
	}
	t.gen++
	t.h.stop()
	delete(sh.m, id)
	return true
}

// up runs on the goroutine of the runtime's or the library's timer.
func (t *keyedTimer) up() {
	sh := t.k.shard(t.id)
	sh.mu.Lock()
	now := time.Since(t.k.base)
	if sh.m[t.id] != t || now < t.due {
		// Killed, set anew, or the library's early firing.
		if sh.m[t.id] == t {
			t.arm(t.due - now)
		}
		sh.mu.Unlock()
		return
	}
	t.n++
	if t.left > 0 {
		t.left--
	}
	f := timerwheel.Firing{ID: t.id, N: t.n, Left: t.left, Late: now - t.due}
	fn, gen, last := t.fn, t.gen, t.left == 0
	if !last {
		if t.due += t.every; t.due <= now {
			t.due += (now - t.due + t.every - 1) / t.every * t.every
		}
		t.arm(t.due - now)
	}
	sh.mu.Unlock()
	t.k.sub.Submit(func() {
		sh.mu.Lock()
		live := t.gen == gen
		if live && last {
			delete(sh.m, t.id)
		}
		sh.mu.Unlock()
		if live {
			fn(f)
		}
	})
}

func (k *keyed) Close() {
	for i := range k.shards {
		sh := &k.shards[i]
		sh.mu.Lock()
		for id, t := range sh.m {
			t.gen++
			t.h.stop()
			delete(sh.m, id)
		}
		sh.mu.Unlock()
	}
	k.end()
}
