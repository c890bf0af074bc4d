package nodes

import (
	"context"
	"slices"
	"sync"
)

// turns lets one goroutine at a time have a key, in the order in which they come.
type turns struct {
	mu      sync.Mutex
	waiting map[string][]chan struct{} // guarded by mu; an entry for each key that one has
}

// take waits until nobody else has the key; false if ctx ends before.
func (t *turns) take(ctx context.Context, key string) bool {
	t.mu.Lock()
	list, taken := t.waiting[key]
	if !taken {
		t.waiting[key] = nil
		t.mu.Unlock()
		return true
	}
	next := make(chan struct{})
	t.waiting[key] = append(list, next)
	t.mu.Unlock()
	select {
	case <-next:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	list = t.waiting[key]
	i := slices.Index(list, next)
	if i >= 0 {
		t.waiting[key] = slices.Delete(list, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 {
		t.leave(key) // its turn came just now
	}
	return false
}

// leave lets the next have the key.
func (t *turns) leave(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.waiting[key]
	if len(list) == 0 {
		delete(t.waiting, key)
		return
	}
	close(list[0])
	t.waiting[key] = list[1:]
}
