package services

import (
	"context"
	"errors"

	"millrace/codec"
	"millrace/engine"
)

// Tracer is told when requests, calls in line and delay events begin and end.
// Package services/otel has one for OpenTelemetry. Queries have dbasync.QueryTracer.
type Tracer interface {
	// TraceStart is called on the goroutine of the stages, before decoding; it must not
	// block. parent is that of the caller for a call in line, else the session's context,
	// or of no session an empty one. What it returns is given to TraceEnd; its values are
	// those of the Context and of Context.Lasting, so queries and calls made with these are
	// its children.
	TraceStart(parent context.Context, op Operation) context.Context
	// TraceEnd is called once for each start, when the answer has been made, before it is
	// sent, on the goroutine that made it. err is what the peer gets an ERROR for; ErrClosed of
	// the engine when the session has gone before; nil for an answer.
	TraceEnd(ctx context.Context, err error)
}

// TraceKind is what begins and ends.
type TraceKind uint8

const (
	TraceRequest TraceKind = iota // of a peer
	TraceCall                     // Inline
	TraceEvent                    // a delay event
)

var traceKinds = [...]string{"request", "call", "event"}

func (k TraceKind) String() string { return traceKinds[k] }

// Operation is what a Tracer is told of.
type Operation struct {
	Kind    TraceKind
	Handle  uint32
	Name    string
	Session engine.ID // 0: of none
}

var (
	errRefused = errors.New("services: refused: too much is owed")
	errPanic   = errors.New("services: a stage panicked")
)

// traced runs fn, and tells the Tracer that what ctx is of begins; of its end only where a
// panic or runtime.Goexit leaves no other.
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

// endTrace tells it of the end, once.
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
