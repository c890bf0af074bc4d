package services

import (
	"context"
	"log/slog"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/serial"
	"millrace/timerwheel"
)

// Context is the context of a request in a stage: the session, the handle, and what services share.
// It is a context.Context that ends at the request's deadline and when its session closes.
//
// It, the request and the result are valid until the last stage has returned or, after Defer, until
// the answer is done; afterwards they are reused. Its methods may be called only on the goroutine
// of the stage.
type Context struct {
	c      *Controller
	s      *engine.Session // nil for none
	home   Home            // where it runs without a session; nil: on the pool
	packet codec.Packet    // without a body: its handle and Seq
	info   *info
	ser    serial.Serializer
	self   stager // the call that this is part of; nil outside of one

	parent   *Context // of an inline call
	depth    int
	reply    *Reply // after Defer
	deadline time.Time
	done     context.Context // made by Done
	cancel   context.CancelFunc
	late     time.Duration
	delayed  bool
	key      string
	ended    func(error)     // for a durable delay event
	values   []value         // values of Set
	trace    context.Context // made by ControllerConfig.Tracer; nil: none, or TraceEnd was called
}

// value is a key and value of Set.
type value struct{ key, val any }

// stager is a call of any types.
type stager interface {
	run() error                     // decode and the stages
	finish(err error)               // encode and send
	resume(res any, err error)      // run the rest, after Defer
	keep()                          // keep the request beyond the packet
	encode() (body []byte, e error) // encode the result
}

var _ context.Context = (*Context)(nil)

// Home is something other than a session that requests and events may belong to, such as a Room:
// deferred answers and events run in its order and end with it. Its methods are called in its
// order, except Submit.
type Home interface {
	Submitter
	Timers() *timerwheel.Set  // nil if there are none
	Context() context.Context // cancelled when it ends
}

// ContextIn returns a Context that belongs to h, for a function that runs in h: delay events and
// deferred answers run in h, and end with it.
func (c *Controller) ContextIn(h Home) *Context {
	ctx := c.Context(nil)
	ctx.home = h
	return ctx
}

// Context returns a Context outside of any request, for inline calls and delay events: of a
// session, called from its callbacks, or of none if s is nil.
func (c *Controller) Context(s *engine.Session) *Context {
	return &Context{c: c, s: s, info: &info{name: "outside"}}
}

// begin initializes ctx for a new request.
func (ctx *Context) begin(c *Controller, s *engine.Session, p codec.Packet, i *info) {
	// Field by field: building a Context and copying it would cost more than everything else here.
	ctx.c, ctx.s, ctx.home, ctx.info = c, s, nil, i
	ctx.packet = codec.Packet{Main: p.Main, Sub: p.Sub, Seq: p.Seq}
	ctx.parent, ctx.depth = nil, 0
	ctx.reset()
	ctx.deadline = time.Time{}
	ctx.late, ctx.delayed, ctx.key, ctx.ended = 0, false, "", nil
	if i.timeout > 0 {
		ctx.deadline = time.Now().Add(i.timeout)
	}
}

// reset clears the state of the last call.
func (ctx *Context) reset() {
	ctx.ser, ctx.reply, ctx.done, ctx.cancel = nil, nil, nil, nil
	if ctx.values != nil {
		ctx.values = nil
	}
	if ctx.trace != nil {
		ctx.trace = nil
	}
}

// release cancels the context that Lasting has made.
func (ctx *Context) release() {
	if ctx.cancel != nil {
		ctx.cancel()
	}
}

// Home returns the Home that the request belongs to, such as a Room; nil for none.
func (ctx *Context) Home() Home { return ctx.home }

// Session returns the session that sent the request, or that a delay event is bound to; nil for
// none.
func (ctx *Context) Session() *engine.Session { return ctx.s }

// Handle returns the handle of the running service.
func (ctx *Context) Handle() uint32 { return ctx.info.handle }

// Controller gives access to all services.
func (ctx *Context) Controller() *Controller { return ctx.c }

// DB returns the database; nil if there is none. events.DB(ctx) returns it as a *dbasync.DB.
func (ctx *Context) DB() Database { return ctx.c.cfg.DB }

// Cache returns the shared cache; nil if there is none.
func (ctx *Context) Cache() Cache { return ctx.c.cfg.Cache }

// Timers returns the timers of the session, or of its Home, which run in its order and end with it.
// Without either it returns timers that run on the pool. It is nil without a timer service.
func (ctx *Context) Timers() *timerwheel.Set {
	if ctx.s != nil {
		return ctx.c.state(ctx.s, true).set()
	}
	if ctx.home != nil {
		return ctx.home.Timers()
	}
	if ctx.c.cfg.Timers == nil || ctx.c.cfg.Pool == nil {
		return nil
	}
	return ctx.c.cfg.Timers.For(ctx.c.cfg.Pool)
}

// Logger returns a logger with the service's handle and the session as attributes.
func (ctx *Context) Logger() *slog.Logger {
	l := ctx.c.cfg.Logger.With("handle", handleText(ctx.info.handle), "service", ctx.info.name)
	if ctx.s != nil {
		l = l.With("session", ctx.s.ID().String())
	}
	return l
}

// Late returns how long after its time a delay event runs, and whether this is one.
func (ctx *Context) Late() (time.Duration, bool) { return ctx.late, ctx.delayed }

// Key returns the key of a durable delay event; it is the same when the event runs again.
func (ctx *Context) Key() string { return ctx.key }

// Deadline implements context.Context.
func (ctx *Context) Deadline() (time.Time, bool) { return ctx.deadline, !ctx.deadline.IsZero() }

// Lasting returns a context.Context that may be kept and used by other goroutines, for queries and
// calls with deferred answers. It is cancelled when the session closes or the Home ends and, if the
// request has a deadline, at the deadline and when the request ends.
func (ctx *Context) Lasting() context.Context {
	if ctx.done != nil {
		return ctx.done
	}
	ctx.done = context.Background()
	switch {
	case ctx.trace != nil:
		ctx.done = ctx.trace
	case ctx.s != nil:
		ctx.done = ctx.s.Context()
	case ctx.home != nil:
		ctx.done = ctx.home.Context()
	}
	if !ctx.deadline.IsZero() {
		ctx.done, ctx.cancel = context.WithDeadline(ctx.done, ctx.deadline)
	}
	return ctx.done
}

// Done implements context.Context. It is closed when the session closes and, if the request has a
// deadline, at the deadline and when the request ends.
func (ctx *Context) Done() <-chan struct{} { return ctx.Lasting().Done() }

// Err implements context.Context.
func (ctx *Context) Err() error {
	switch {
	case ctx.done != nil:
		return ctx.done.Err()
	case ctx.s != nil && !ctx.s.Connected():
		return context.Canceled
	case !ctx.deadline.IsZero() && !time.Now().Before(ctx.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Set stores a value for the rest of the request: for the following stages and middleware, and for
// the inline calls that they make. As with context.WithValue, key should have an unexported type of
// its own.
func (ctx *Context) Set(key, val any) {
	for i := range ctx.values {
		if ctx.values[i].key == key {
			ctx.values[i].val = val
			return
		}
	}
	ctx.values = append(ctx.values, value{key, val})
}

// Value implements context.Context: it returns a value of Set in this request, or in the request
// that made this inline call.
func (ctx *Context) Value(key any) any {
	for c := ctx; c != nil; c = c.parent {
		for i := range c.values {
			if c.values[i].key == key {
				return c.values[i].val
			}
		}
	}
	if ctx.done != nil {
		// This lets package context find a parent that it can attach children to. Otherwise it
		// would start a goroutine that watches ctx, even after ctx is reused for another request.
		return ctx.done.Value(key)
	}
	if ctx.trace != nil {
		return ctx.trace.Value(key)
	}
	return nil
}

// send sends an answer in order: after those still pending on the same handle.
func (ctx *Context) send(a answer) {
	if ctx.s == nil {
		return
	}
	if r := ctx.reply; r != nil && r.turns != nil && !r.st.closed {
		r.st.enqueue(a, r)
		return
	}
	if ctx.c.nSessions.Load() > 0 {
		if st := ctx.c.state(ctx.s, false); st != nil && len(st.queues[a.packet.Handle()].owed()) > 0 {
			st.enqueue(a, nil)
			return
		}
	}
	a.write(ctx.c, ctx.s)
}
