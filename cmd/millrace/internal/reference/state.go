package reference

import (
	"sync"

	"millrace/engine"
)

// perSession keeps a value for each session that has asked for one, until it closes.
type perSession[T any] struct {
	mu sync.Mutex
	m  map[engine.ID]*T // guarded by mu
}

func newPerSession[T any](r *Router, end func(*T)) *perSession[T] {
	p := &perSession[T]{m: map[engine.ID]*T{}}
	r.OnClose(func(s *engine.Session, _ engine.Reason) {
		p.mu.Lock()
		v := p.m[s.ID()]
		delete(p.m, s.ID())
		p.mu.Unlock()
		if v != nil && end != nil {
			end(v)
		}
	})
	return p
}

// find returns the session's value, or nil.
func (p *perSession[T]) find(s *engine.Session) *T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[s.ID()]
}

// get returns the session's value, made by fresh when there is none.
func (p *perSession[T]) get(s *engine.Session, fresh func() *T) *T {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.m[s.ID()]
	if v == nil {
		v = fresh()
		p.m[s.ID()] = v
	}
	return v
}
