package services

import (
	"fmt"
	"math"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/timerwheel"
)

// Delayed is a pending delay event.
type Delayed struct {
	set *timerwheel.Set
	id  timerwheel.TimerID

	durable DurableEvents // set for a durable event
	key     string
}

// Cancel cancels the event. It returns false if the event has begun, was cancelled before, or its
// session has closed. After Cancel has returned the event does not begin.
//
// For a durable event it requests the removal from the database, and true means only that the
// removal was requested; use DurableEvents.Cancel to learn the result.
func (e *Delayed) Cancel() bool {
	if e.durable != nil {
		return e.durable.Cancel(nil, e.key, nil) == nil
	}
	return e.set.KillTimer(e.id)
}

// maxDelay is the longest delay of an event: a hundred years.
const maxDelay = 100 * 365.25 * 24 * time.Hour

// AfterOption changes a delay event.
type AfterOption func(*afterOptions)

type afterOptions struct {
	unbound bool
	durable bool
	key     string
	stored  func(bool, error)
}

// Unbound makes an event that is bound to no session or Home, whatever its context: it runs on the
// pool, and its result is discarded.
func Unbound() AfterOption { return func(o *afterOptions) { o.unbound = true } }

// After runs the service at handle with req after the given number of seconds, through its stages,
// without middleware. It never runs early.
//
// The event is bound to the context's session, if there is one: it runs in the session's order, its
// result is sent to the session as a frame of that handle, and when the session closes the event is
// cancelled, so it never reaches the next client of the slot. It is bound to the context's Home in
// the same way (Controller.ContextIn), but then its result is discarded.
//
// Errors: an Error (bad_body) for a negative number of seconds or more than a hundred years,
// (limit) for more than MaxDelayed events of a session or Home; ErrUnknownHandle; ErrTypes; those
// of the timer service.
func After[Req any](ctx *Context, seconds float64, handle uint32, req Req, opts ...AfterOption) (*Delayed, error) {
	var o afterOptions
	for _, opt := range opts {
		opt(&o)
	}
	delay, err := delayOf(seconds)
	if err != nil {
		return nil, err
	}
	sv := ctx.c.lookup(handle)
	if sv == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownHandle, handleText(handle))
	}
	target, ok := sv.(delayable[Req])
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrTypes, handleText(handle))
	}
	if o.durable {
		body, err := target.encodeFor(req)
		if err != nil {
			return nil, err
		}
		return ctx.c.afterDurable(ctx, o, handle, body, delay)
	}
	f := fireContext{s: ctx.s, home: ctx.home}
	if o.unbound {
		f.s, f.home = nil, nil
	}
	set, err := ctx.c.eventSet(f)
	if err != nil {
		return nil, err
	}
	id, err := set.After(delay, func(fi timerwheel.Firing) {
		ctx := f
		ctx.late = fi.Late
		target.fire(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return &Delayed{set: set, id: id}, nil
}

func delayOf(seconds float64) (time.Duration, error) {
	if math.IsNaN(seconds) || seconds < 0 || seconds > maxDelay.Seconds() {
		return 0, Errorf(engine.CodeBadBody, "delay of %v s is out of range", seconds)
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second))), nil
}

// eventSet returns the timer set for events of f's session or Home, or the common one.
func (c *Controller) eventSet(f fireContext) (set *timerwheel.Set, err error) {
	switch {
	case f.s == nil && f.home != nil:
		set = f.home.Timers()
	case c.cfg.Timers == nil:
	case f.s != nil:
		set = c.state(f.s, true).set()
	case c.cfg.Pool == nil:
		return nil, Errorf(engine.CodeUnavailable, "no pool")
	default:
		return c.cfg.Timers.For(c.cfg.Pool), nil
	}
	if set == nil {
		return nil, Errorf(engine.CodeUnavailable, "no timers")
	}
	if set.Len() >= c.cfg.MaxDelayed {
		return nil, Errorf(engine.CodeLimit, "more than %d delay events", c.cfg.MaxDelayed)
	}
	return set, nil
}

// delayable is the part of a registered service that delay events need, for any result type.
type delayable[Req any] interface {
	fire(f fireContext, req Req)
	encodeFor(req Req) ([]byte, error)
}

var _ delayable[struct{}] = (*registered[struct{}, struct{}])(nil)

// fireContext is the context that a delay event runs in.
type fireContext struct {
	s     *engine.Session
	home  Home
	late  time.Duration
	key   string
	ended func(error)
}

// fire runs the service for a delay event, in the session's order or on the pool.
//
//lint:ignore U1000 called through delayable
func (r *registered[Req, Res]) fire(f fireContext, req Req) {
	k := r.event(f)
	k.req = req
	r.runEvent(k, nil)
}

// fireBytes is like fire, with an encoded request.
func (r *registered[Req, Res]) fireBytes(f fireContext, body []byte) {
	k := r.event(f)
	var err error
	if !r.noBody {
		if err = r.c.serializer(&r.info, nil, codec.Packet{}).Decode(body, &k.req); err == nil {
			err = k.validate()
		}
	}
	r.runEvent(k, err)
}

func (r *registered[Req, Res]) event(f fireContext) *call[Req, Res] {
	k := r.begin(f.s, codec.Packet{Main: uint16(r.info.handle >> 16), Sub: uint16(r.info.handle)})
	k.ctx.home = f.home
	k.ctx.delayed, k.ctx.late, k.ctx.key, k.ctx.ended = true, f.late, f.key, f.ended
	r.c.delayed.Add(1)
	return k
}

func (r *registered[Req, Res]) runEvent(k *call[Req, Res], err error) {
	run := func() {
		if err == nil {
			err = k.steps()
		}
		k.returned(err)
	}
	if r.c.cfg.Tracer != nil {
		k.ctx.traced(TraceEvent, run)
	} else {
		run()
	}
	r.put(k)
}

// encodeFor returns the encoding of req that a durable event stores.
//
//lint:ignore U1000 called through delayable
func (r *registered[Req, Res]) encodeFor(req Req) ([]byte, error) {
	if r.noBody {
		return nil, nil
	}
	return r.c.serializer(&r.info, nil, codec.Packet{}).Append(nil, &req)
}
