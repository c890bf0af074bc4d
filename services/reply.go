package services

import (
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// Reply is a deferred answer.
type Reply struct {
	ctx   *Context // nil for an answer that is ready and only waits for earlier ones
	st    *sessionState
	turns *turns      // the queue it waits in; nil for none
	claim atomic.Bool // set by the first of Done, timeout and end

	timed bool // timer may be set
	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	back  bool        // guarded by mu; the stage that called Defer has returned
	early func()      // guarded by mu; the work of a Done that came earlier

	// The fields below are used in the session's order only.
	resumed bool
	refused bool   // too many answers were pending
	refuses uint32 // if not 0, the number of consecutive requests to refuse with code and text
	onEnd   func()
	ready   bool // the answer below may be sent when it is first
	silent  bool // no answer is sent
	packet  codec.Packet
	body    []byte
	code    engine.ErrorCode
	text    string
	release func() // releases the hold on the session
	kept    func() // uncounts a waiting answer; nil for none
}

// Defer defers the answer until Reply.Done is called: after a query, a timer, a lock. The stage
// then returns nil; the remaining stages run after Done. Meanwhile the session's other requests are
// served; answers on one handle keep the order of their requests. The session is held open (its FIN
// and a drain wait) until Done or the timeout: the service's, else ControllerConfig.Timeout.
//
// Called again in the same request it returns the same Reply. In an inline call it makes the call
// fail with ErrDeferred.
func (ctx *Context) Defer() *Reply {
	if ctx.reply != nil {
		return ctx.reply
	}
	r := &Reply{ctx: ctx, packet: ctx.packet}
	ctx.reply = r
	ctx.self.keep()
	if ctx.parent != nil {
		r.claim.Store(true) // Inline returns ErrDeferred
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

// hold appends the reply to the session's queue for its handle.
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

// deferCost is the approximate memory of a Context, its stages' values and the function that
// answers, in bytes, in addition to what the engine counts for a pending answer.
const deferCost = 832

const (
	tooManyOwed = "too many answers pending"
	tooMuchOwed = "pending answers take too much memory; try again later"
)

// refuse refuses the request because too many answers are pending. The ERROR is sent in order.
func (r *Reply) refuse(code engine.ErrorCode, text string) {
	r.claim.Store(true)
	r.refused = true
	r.ctx.c.deferred.Add(-1)
	r.st.refuse(r.packet, code, text)
}

// Done gives the answer: res is a Res or *Res of the service, or nil for the stages' present
// result; err is like that of a stage. It may be called from any goroutine; only the first call
// counts. If the session has closed, nothing is sent.
func (r *Reply) Done(res any, err error) {
	if r.claimed() {
		deliver(r.on(), func() { r.finish(res, err) }, r.gone)
	}
}

// DoneHere is Done for callers that already run in the session's order, such as the callback of a
// query that was given the session.
func (r *Reply) DoneHere(res any, err error) {
	if r.claimed() {
		r.finish(res, err)
	}
}

// OnEnd arranges for fn to be called, in the session's order, if the session ends (by the peer's
// FIN, or close) before Done, or has already ended, or if the answer was refused because too many
// are pending. After a FIN fn may still call Done.
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
	return r.ctx.c.cfg.Pool // nil: on this goroutine
}

// gone drops the reply because the session closed before the answer. Any goroutine.
func (r *Reply) gone() {
	r.ctx.c.stale.Add(1)
	r.ctx.endTrace(engine.ErrClosed)
}

// returned records that the stage that called Defer has returned err.
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

// finish runs the remaining stages, now or when the stage that called Defer has returned. In the
// session's order.
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

// nothing ends the request without an answer.
func (r *Reply) nothing() {
	if r.st != nil && !r.ready {
		r.silent, r.ready = true, true
		r.st.flush(r.turns)
	}
}

// drop ends the request because the session has closed. In the session's order.
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

// letGo uncounts a waiting answer.
func (r *Reply) letGo() {
	if r.kept != nil {
		r.kept()
		r.kept = nil
	}
}
