package engine

import (
	"sync"
	"sync/atomic"

	"millrace/engine/internal/sched"
)

// lastN keeps the last elements of a rarely extended list.
type lastN[T any] struct {
	mu   sync.Mutex
	most int // set once
	list []T // guarded by mu
	next int // guarded by mu; index of the oldest, once it is full
}

func (l *lastN[T]) add(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) < l.most {
		l.list = append(l.list, v)
		return
	}
	l.list[l.next] = v
	l.next = (l.next + 1) % l.most
}

// all returns a copy, oldest first.
func (l *lastN[T]) all() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]T(nil), l.list[l.next:]...), l.list[:l.next]...)
}

// hooks calls user functions on a separate goroutine, one at a time, so that they may block. The
// goroutine exists while there are calls.
type hooks struct {
	srv *Server
	id  atomic.Uint64 // the goroutine; 0 for none

	mu      sync.Mutex
	waiting []hookCall    // guarded by mu
	running chan struct{} // guarded by mu; closed when the goroutine ends; nil if there is none
}

type hookCall struct {
	name    string
	session ID
	fn      func()
}

// hooksMost is how many calls may wait; more are dropped and counted.
const hooksMost = 1024

// call arranges for fn to be called. Any goroutine; it never blocks.
func (h *hooks) call(name string, session ID, fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) >= hooksMost {
		h.srv.hooksLost.Add(1)
		return
	}
	h.waiting = append(h.waiting, hookCall{name, session, fn})
	if h.running == nil {
		h.running = make(chan struct{})
		go h.run()
	}
}

// wait returns when no calls are left.
func (h *hooks) wait() {
	h.mu.Lock()
	running := h.running
	h.mu.Unlock()
	if running != nil {
		<-running
	}
}

func (h *hooks) run() {
	id := sched.GoroutineID()
	h.id.Store(id)
	clean := false
	defer func() {
		h.id.CompareAndSwap(id, 0) // another goroutine may have started
		if !clean {                // a hook ended this goroutine with runtime.Goexit
			go h.run()
		}
	}()
	for {
		h.mu.Lock()
		list := h.waiting
		h.waiting = nil
		if len(list) == 0 {
			close(h.running)
			h.running = nil
		}
		h.mu.Unlock()
		if len(list) == 0 {
			clean = true
			return
		}
		for len(list) > 0 {
			c := list[0]
			list = list[1:]
			h.one(c, &list)
		}
	}
}

// one makes one call. If it ends the goroutine, the remaining calls are made by a new one.
func (h *hooks) one(c hookCall, left *[]hookCall) {
	ok := false
	defer func() {
		if ok {
			return
		}
		v := recover()
		h.srv.panics.Report("Config."+c.name, c.session.String(), 0, v)
		if v == nil {
			h.mu.Lock()
			h.waiting = append(*left, h.waiting...)
			h.mu.Unlock()
		}
	}()
	c.fn()
	ok = true
}
