package services

import (
	"context"
	"errors"

	"millrace/codec"
	"millrace/engine"
)

// Tracer is notified when requests, inline calls and delay events begin and end. Package
// services/otel has one for OpenTelemetry. Queries have dbasync.QueryTracer.
type Tracer interface {
	// TraceStart is called on the goroutine of the stages, before decoding; it must not block.
	// parent is the caller's context for an inline call, else the session's context, or an empty
	// one without a session. The returned context is passed to TraceEnd; its values are visible in
	// the Context and in Context.Lasting, so queries and calls made with these become its children.
	TraceStart(parent context.Context, op Operation) context.Context
	// TraceEnd is called once for each TraceStart, when the answer has been made, before it is
	// sent, on the goroutine that made it. err is the error that the peer gets an ERROR for;
	// engine.ErrClosed if the session has closed before; nil for an answer.
	TraceEnd(ctx context.Context, err error)
}

// TraceKind is the kind of operation.
type TraceKind uint8

const (
	TraceRequest TraceKind = iota // a request of a peer
	TraceCall                     // Inline
	TraceEvent                    // a delay event
)

var traceKinds = [...]string{"request", "call", "event"}

func (k TraceKind) String() string { return traceKinds[k] }

// Operation describes what a Tracer is notified of.
type Operation struct {
	Kind    TraceKind
	Handle  uint32
	Name    string
	Session engine.ID // 0 for none
}

var (
	errRefused = errors.New("services: refused: too many answers pending")
	errPanic   = errors.New("services: a stage panicked")
)

// traced runs fn, and notifies the Tracer that the operation of ctx begins. It reports the end only
// for a panic or runtime.Goexit, which leaves no other place to do so.
func (ctx *Context) traced(kind TraceKind, fn func()) {
	ctx.startTrace(kind)
	ok := false
	defer func() {
		if !ok {
			ctx.endTrace(errPanic)
		}
	}()
	fn()
	ok = true
}

func (ctx *Context) startTrace(kind TraceKind) {
	parent, op := context.Background(), Operation{Kind: kind, Handle: ctx.info.handle, Name: ctx.info.name}
	if ctx.s != nil {
		op.Session = ctx.s.ID()
	}
	switch {
	case ctx.parent != nil && ctx.parent.trace != nil:
		parent = ctx.parent.trace
	case ctx.s != nil:
		parent = ctx.s.Context()
	case ctx.home != nil:
		parent = ctx.home.Context()
	}
	ctx.trace = ctx.c.cfg.Tracer.TraceStart(parent, op)
}

// endTrace reports the end, once.
func (ctx *Context) endTrace(err error) {
	if t := ctx.trace; t != nil {
		ctx.trace = nil
		ctx.c.cfg.Tracer.TraceEnd(t, err)
	}
}

// traced is serve with a Tracer.
func (r *raw) traced(s *engine.Session, p codec.Packet) {
	t := r.c.cfg.Tracer
	ctx := t.TraceStart(s.Context(), Operation{TraceRequest, r.info.handle, r.info.name, s.ID()})
	err := errPanic
	defer func() { t.TraceEnd(ctx, err) }()
	if err = r.fn(s, p); err != nil {
		r.failed(s, p, err)
	}
}
