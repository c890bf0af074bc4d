package engine

import (
	"sync"
	"sync/atomic"

	"millrace/engine/internal/sched"
)

// lastN keeps the last ones of what is rare.
type lastN[T any] struct {
	mu   sync.Mutex
	most int // set once
	list []T // guarded by mu
	next int // guarded by mu; the oldest, once there are most
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

// all returns a copy, the oldest first.
func (l *lastN[T]) all() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]T(nil), l.list[l.next:]...), l.list[:l.next]...)
}

// hooks calls the user's functions on a goroutine of its own, one at a time, so that they may
// block. It lives while there is something to call.
type hooks struct {
	srv *Server
	id  atomic.Uint64 // the goroutine that calls; 0: none

	mu      sync.Mutex
	waiting []hookCall    // guarded by mu
	running chan struct{} // closed when the goroutine has nothing left to call; nil: there is none; guarded by mu
}

type hookCall struct {
	name    string
	session ID
	fn      func()
}

// hooksMost is how many calls may wait; more are left out and counted.
const hooksMost = 1024

// call has fn called soon. Any goroutine; it never blocks.
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

// wait returns when nothing is left to call.
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
		h.id.CompareAndSwap(id, 0) // another may have begun
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

// one makes a call. What is left of the list is called later if it ends the goroutine.
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
