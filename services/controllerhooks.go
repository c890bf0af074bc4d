package services

import (
	"errors"
	"sync/atomic"

	"millrace/engine"
)

// OnAccept registers fn to be called for each session, before its first request and in its order,
// as OnSocketAccept. Several hooks are called in the order in which they were registered.
func (c *Controller) OnAccept(fn func(s *engine.Session)) { addHook(c, &c.accepts, fn) }

// OnClose registers fn to be called at the end of each session, after its last request and in its
// order, when the session's answers, locks and events have ended, as OnSocketClose. Several hooks
// are called in the order in which they were registered.
func (c *Controller) OnClose(fn func(s *engine.Session, why engine.Reason)) {
	addHook(c, &c.closes, fn)
}

// OnDetach registers fn to be called when a session's connection is lost and its peer may resume it
// (engine.Timeouts.Resume), in the session's order, as engine.ResumeHandler's OnSocketDetach.
// Locks, delay events and pending answers are kept.
func (c *Controller) OnDetach(fn func(s *engine.Session)) { addHook(c, &c.detaches, fn) }

// OnResume registers fn to be called when the peer has resumed the session, as OnSocketResume.
func (c *Controller) OnResume(fn func(s *engine.Session)) { addHook(c, &c.resumes, fn) }

// Handoff allows other servers to take sessions over (engine.Handoff). marshal returns the
// application's state of a session, which should be small; on the other server unmarshal restores
// it, and is called instead of the hooks of OnAccept. Both run in the session's order. The
// controller's own state is not transferred, so a session stays while it holds or waits for a lock,
// or has delay events or a serializer of its own. Without Handoff all sessions stay.
func (c *Controller) Handoff(marshal func(s *engine.Session) ([]byte, error), unmarshal func(s *engine.Session, state []byte) error) {
	c.handoff.Store(&handoff{marshal, unmarshal})
}

// handoff holds the arguments of Handoff.
type handoff struct {
	marshal   func(s *engine.Session) ([]byte, error)
	unmarshal func(s *engine.Session, state []byte) error
}

// errStays: a session has state that can't be transferred.
var errStays = errors.New("services: the session has locks, delay events or a serializer, which can't be transferred")

// MarshalSession implements engine.Handoff.
func (c *Controller) MarshalSession(s *engine.Session) ([]byte, error) {
	h := c.handoff.Load()
	if h == nil {
		return nil, engine.ErrNoHandoff
	}
	if st := c.state(s, false); st != nil && (st.ser != nil || st.timers != nil && st.timers.Len() > 0) || c.holdsLocks(s) {
		return nil, errStays
	}
	return h.marshal(s)
}

// UnmarshalSession implements engine.Handoff.
func (c *Controller) UnmarshalSession(s *engine.Session, state []byte) error {
	if h := c.handoff.Load(); h != nil {
		return h.unmarshal(s, state)
	}
	return engine.ErrNoHandoff
}

// owner is a Cache that can tell whether an owner holds anything.
type owner interface{ Owns(owner Owner) bool }

// holdsLocks tells whether a session holds a lock, or waits for one.
func (c *Controller) holdsLocks(s *engine.Session) bool {
	o, ok := c.cfg.Cache.(owner)
	return ok && o.Owns(s)
}

func addHook[F any](c *Controller, to *atomic.Pointer[[]F], fn F) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []F
	if old := to.Load(); old != nil {
		all = append(all, *old...)
	}
	all = append(all, fn)
	to.Store(&all)
}

// OnSocketAccept implements engine.Handler.
func (c *Controller) OnSocketAccept(s *engine.Session) { callAll(&c.accepts, s) }

// OnSocketDetach implements engine.ResumeHandler.
func (c *Controller) OnSocketDetach(s *engine.Session) { callAll(&c.detaches, s) }

// OnSocketResume implements engine.ResumeHandler.
func (c *Controller) OnSocketResume(s *engine.Session) { callAll(&c.resumes, s) }

func callAll(hooks *atomic.Pointer[[]func(*engine.Session)], s *engine.Session) {
	if fns := hooks.Load(); fns != nil {
		for _, fn := range *fns {
			fn(s)
		}
	}
}
