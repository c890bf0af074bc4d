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

// Context is what a stage works with: the session, the handle, and the tools that services
// share. It is a context.Context that ends at the request's deadline and when its session
// closes.
//
// It, the request and the result are valid until the last stage has returned,
// or, after Defer, until the answer is done; they are used again after that.
// Its methods are for the goroutine of the stage.
type Context struct {
	c      *Controller
	s      *engine.Session // nil: none
	home   Home            // where it runs that is of no session; nil: on the pool
	packet codec.Packet    // without a body: its handle and Seq
	info   *info
	ser    serial.Serializer
	self   stager // the call that this is part of; nil outside of one

	parent   *Context // of a call in line
	depth    int
	reply    *Reply // after Defer
	deadline time.Time
	done     context.Context // made by Done
	cancel   context.CancelFunc
	late     time.Duration
	delayed  bool
	key      string
	ended    func(error)     // of a durable delay event
	values   []value         // of Set
	trace    context.Context // what ControllerConfig.Tracer made; nil: nothing, or it has been told of the end
}

// value is one that was Set.
type value struct{ key, val any }

// stager is a call, whatever its types.
type stager interface {
	run() error                     // decode and the stages
	finish(err error)               // encode and send
	resume(res any, err error)      // the rest, after Defer
	keep()                          // the request outlives the packet
	encode() (body []byte, e error) // the result
}

var _ context.Context = (*Context)(nil)

// Home is where what is of no session may belong: what comes back later runs in its order
// and ends with it. A Room is one. Its methods are called in its order, but for Submit.
type Home interface {
	Submitter
	Timers() *timerwheel.Set  // nil: there are none
	Context() context.Context // cancelled when it ends
}

// ContextIn is Context for what belongs to h, from a function that runs there: delay events
// and answers that come later run in it, and end with it.
func (c *Controller) ContextIn(h Home) *Context {
	ctx := c.Context(nil)
	ctx.home = h
	return ctx
}

// Context returns one outside of any request, for calls in line and delay
// events: of a session, from its callbacks, or of none.
func (c *Controller) Context(s *engine.Session) *Context {
	return &Context{c: c, s: s, info: &info{name: "outside"}}
}

// begin makes ctx that of a new request.
func (ctx *Context) begin(c *Controller, s *engine.Session, p codec.Packet, i *info) {
	// Field by field: to build a Context and copy it costs more than all else here.
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

// reset forgets what the last call has left.
func (ctx *Context) reset() {
	ctx.ser, ctx.reply, ctx.done, ctx.cancel = nil, nil, nil, nil
	if ctx.values != nil {
		ctx.values = nil
	}
	if ctx.trace != nil {
		ctx.trace = nil
	}
}

// release ends what Lasting has made.
func (ctx *Context) release() {
	if ctx.cancel != nil {
		ctx.cancel()
	}
}

// Home is where it belongs that is of no session, a Room; nil: nowhere.
func (ctx *Context) Home() Home { return ctx.home }

// Session is the session that asked, or that a delay event is bound to; nil: none.
func (ctx *Context) Session() *engine.Session { return ctx.s }

// Handle is the handle of the service that runs.
func (ctx *Context) Handle() uint32 { return ctx.info.handle }

// Controller gives access to all services.
func (ctx *Context) Controller() *Controller { return ctx.c }

// DB is the database; nil: there is none. events.DB(ctx) is the same as a *dbasync.DB.
func (ctx *Context) DB() Database { return ctx.c.cfg.DB }

// Cache is the shared memory; nil: there is none.
func (ctx *Context) Cache() Cache { return ctx.c.cfg.Cache }

// Timers are the session's own, or its Home's, which run in its order and end with it;
// without either they are of no one and run on the pool. Nil: there is no timer
// service.
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

// Logger adds the service's handle and the session.
func (ctx *Context) Logger() *slog.Logger {
	l := ctx.c.cfg.Logger.With("handle", handleText(ctx.info.handle), "service", ctx.info.name)
	if ctx.s != nil {
		l = l.With("session", ctx.s.ID().String())
	}
	return l
}

// Late is how long after its time a delay event runs, and whether this is one.
func (ctx *Context) Late() (time.Duration, bool) { return ctx.late, ctx.delayed }

// Key is that of a durable delay event; it is the same when the event runs a
// second time.
func (ctx *Context) Key() string { return ctx.key }

// Deadline implements context.Context.
func (ctx *Context) Deadline() (time.Time, bool) { return ctx.deadline, !ctx.deadline.IsZero() }

// Lasting returns a context.Context that may be kept and used by other goroutines: for
// queries and calls whose answers come later. It is cancelled when the session closes, or
// the Home ends, and, of a request with a deadline, at that and when the request ends.
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

// Done implements context.Context. It is closed when the session closes, and, of a
// request with a deadline, at that and when the request ends.
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

// Set keeps a value for the rest of the request: for the stages and middleware that
// follow, and for the calls in line that they make. As with context.WithValue, key is
// best of a type of one's own.
func (ctx *Context) Set(key, val any) {
	for i := range ctx.values {
		if ctx.values[i].key == key {
			ctx.values[i].val = val
			return
		}
	}
	ctx.values = append(ctx.values, value{key, val})
}

// Value implements context.Context: what was Set in this request, or in the one that
// calls it in line.
func (ctx *Context) Value(key any) any {
	for c := ctx; c != nil; c = c.parent {
		for i := range c.values {
			if c.values[i].key == key {
				return c.values[i].val
			}
		}
	}
	if ctx.done != nil {
		// Package context so finds what it can hang children on. Else it would keep a
		// goroutine that looks at ctx when that is another request's.
		return ctx.done.Value(key)
	}
	if ctx.trace != nil {
		return ctx.trace.Value(key)
	}
	return nil
}

// send sends an answer in its turn: behind those that are still owed on the
// same handle.
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
