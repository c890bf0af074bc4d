package services

import (
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// Reply is an answer that comes later.
type Reply struct {
	ctx   *Context // nil for an answer that only waits for its turn
	st    *sessionState
	turns *turns      // where it waits for its turn; nil: nowhere
	claim atomic.Bool // Done, the timeout or the end has it

	timed bool // there may be a timer
	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	back  bool        // guarded by mu: the stage that called Defer has returned
	early func()      // guarded by mu: Done came before that

	// The rest is used in the session's order only.
	resumed bool
	refused bool   // too much was owed
	refuses uint32 // not 0: so many requests in a row are to be refused, with code and text
	onEnd   func()
	ready   bool // what follows may be sent when it is its turn
	silent  bool // nothing is to be sent
	packet  codec.Packet
	body    []byte
	code    engine.ErrorCode
	text    string
	release func() // lets the session go
	kept    func() // ends what the answer counts while it waits for its turn; nil: nothing
}

// Defer says that the answer comes later, by the Reply's Done: after a query, a
// timer, a lock. The stage then returns nil; what is left of the stages runs
// after Done. Meanwhile the session's other requests are served; answers on one
// handle keep the order of their requests. The session is held open (its FIN
// and a drain wait) until Done, or until the timeout: the service's, else
// ControllerConfig.Timeout.
//
// Called again in the same request it returns the same Reply. In a call in line
// the call fails with ErrDeferred.
func (ctx *Context) Defer() *Reply {
	if ctx.reply != nil {
		return ctx.reply
	}
	r := &Reply{ctx: ctx, packet: ctx.packet}
	ctx.reply = r
	ctx.self.keep()
	if ctx.parent != nil {
		r.claim.Store(true) // Inline refuses it
		return r
	}
	ctx.c.deferred.Add(1)
	if ctx.s != nil {
		r.hold()
	}
	timeout := ctx.info.timeout
	if timeout == 0 {
		timeout = ctx.c.cfg.Timeout
	}
	if timeout > 0 && !r.claim.Load() {
		r.timed = true
		r.mu.Lock()
		r.timer = time.AfterFunc(timeout, func() { r.Done(nil, Errorf(engine.CodeTimeout, "no answer in time")) })
		r.mu.Unlock()
	}
	return r
}

// hold enters the session's queue of its handle.
func (r *Reply) hold() {
	r.st = r.ctx.c.state(r.ctx.s, true)
	if r.st.full() {
		r.refuse(engine.CodeLimit, tooManyOwed)
		return
	}
	release, err := r.ctx.s.TryHold(deferCost)
	if err != nil {
		r.refuse(engine.CodeOverloaded, tooMuchOwed)
		return
	}
	r.release = release
	r.st.push(r)
}

// deferCost is about what a Context, its stages' values and the function that answers take,
// in bytes, beside what the engine counts for an answer owed.
const deferCost = 832

const (
	tooManyOwed = "too many answers owed"
	tooMuchOwed = "too much memory is taken by answers owed; try again later"
)

// refuse: too much is owed. The peer is told in the request's turn.
func (r *Reply) refuse(code engine.ErrorCode, text string) {
	r.claim.Store(true)
	r.refused = true
	r.ctx.c.deferred.Add(-1)
	r.st.refuse(r.packet, code, text)
}

// Done gives the answer: res is a Res or *Res of the service, nil means what
// stands in the result; err is as a stage's. It may be called from any
// goroutine, once: later calls do nothing. When the session has gone nothing
// is sent.
func (r *Reply) Done(res any, err error) {
	if r.claimed() {
		deliver(r.on(), func() { r.finish(res, err) }, r.gone)
	}
}

// DoneHere is Done for callers that run in the session's order already, such as
// the callback of a query that was given the session.
func (r *Reply) DoneHere(res any, err error) {
	if r.claimed() {
		r.finish(res, err)
	}
}

// OnEnd has fn called, in the session's order, if the session ends (the peer's
// FIN, or close) before Done, or has ended already, or if the answer was refused because
// too much is owed. After a FIN fn may still call Done.
func (r *Reply) OnEnd(fn func()) {
	r.onEnd = fn
	if r.refused || r.st != nil && r.st.ended {
		r.onEnd = nil
		fn()
	}
}

func (r *Reply) claimed() bool {
	if r.claim.Swap(true) {
		return false
	}
	if r.timed {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.timer != nil {
			r.timer.Stop()
		}
	}
	return true
}

func (r *Reply) on() Submitter {
	switch {
	case r.ctx.s != nil:
		return r.ctx.s
	case r.ctx.home != nil:
		return r.ctx.home
	}
	return r.ctx.c.cfg.Pool // nil: here
}

// gone: the session closed before the answer was there. Any goroutine.
func (r *Reply) gone() {
	r.ctx.c.stale.Add(1)
	r.ctx.endTrace(engine.ErrClosed)
}

// returned is what the stage that called Defer returned.
func (r *Reply) returned(err error) {
	r.mu.Lock()
	r.back = true
	early := r.early
	r.mu.Unlock()
	switch {
	case early != nil:
		early()
	case err != nil:
		r.DoneHere(nil, err)
	}
}

// finish runs the rest of the stages, now or when the stage that called Defer
// has returned. In the session's order.
func (r *Reply) finish(res any, err error) {
	r.mu.Lock()
	if !r.back {
		r.early = func() { r.rest(res, err) }
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	r.rest(res, err)
}

func (r *Reply) rest(res any, err error) {
	if r.st != nil && r.st.closed {
		r.gone()
		return
	}
	r.onEnd = nil
	r.resumed = true
	if r.st == nil {
		r.ctx.c.deferred.Add(-1)
	}
	r.ctx.self.resume(res, err)
}

// nothing: the request is over and no answer is sent.
func (r *Reply) nothing() {
	if r.st != nil && !r.ready {
		r.silent, r.ready = true, true
		r.st.flush(r.turns)
	}
}

// drop: the session has closed. Strand only.
func (r *Reply) drop() {
	r.letGo()
	if r.ctx == nil {
		if r.release != nil {
			r.release()
		}
		return
	}
	if r.claimed() {
		r.gone()
	}
	r.st.c.deferred.Add(-1)
	r.release()
}

// letGo ends what the answer counted while it waited.
func (r *Reply) letGo() {
	if r.kept != nil {
		r.kept()
		r.kept = nil
	}
}
