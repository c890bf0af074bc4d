package engine

import (
	"context"
	"sync/atomic"
)

// extra is what few sessions need. Most have none. Any goroutine may make it, and it stays until the
// session is garbage.
type extra struct {
	meter   *meter                   // nil without measurements; set before the session can be found
	ctx     atomic.Pointer[contexts] // made when one is first asked for
	badText atomic.Pointer[string]   // text of the ERROR about a bad frame
	changes changes
}

// more returns the session's extra, and makes it if there is none. Any goroutine.
func (s *Session) more() *extra {
	if x := s.extra.Load(); x != nil {
		return x
	}
	x := &extra{}
	if !s.extra.CompareAndSwap(nil, x) {
		return s.extra.Load()
	}
	return x
}

// meter returns the session's meter; nil without measurements.
func (s *Session) meter() *meter {
	if x := s.extra.Load(); x != nil {
		return x.meter
	}
	return nil
}

// contexts are a session's contexts.
type contexts struct {
	session, input    context.Context
	endSession, endIn context.CancelCauseFunc
}
