// Package otel traces services and queries with OpenTelemetry.
//
//	t := otel.New(provider)
//	cc := services.ControllerConfig{Tracer: t, …}
//	db := dbasync.Config{Tracer: t, …}
//
// A request, an inline call and a delay event are a span each, named after the service; a query is
// a span named after the first word of its statement. A query that is given a services.Context, or
// the result of its Lasting method, is a child of that request. Spans contain no arguments and no
// bodies; they contain statements, which have only placeholders for arguments. The error for which
// a peer gets an ERROR is the span's status. The package links the API of OpenTelemetry, but no
// exporter: that belongs to the provider.
//
// Spans begin and end on the goroutines of stages and completions, so the provider's
// processor should be one that does not block, such as the SDK's batch processor.
package otel

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"millrace/dbasync"
	"millrace/services"
)

// Tracer creates spans. It is a services.Tracer and a dbasync.QueryTracer.
type Tracer struct{ t trace.Tracer }

var (
	_ services.Tracer     = (*Tracer)(nil)
	_ dbasync.QueryTracer = (*Tracer)(nil)
)

// New returns a Tracer for a provider, such as the global one of go.opentelemetry.io/otel.
func New(p trace.TracerProvider) *Tracer {
	return &Tracer{p.Tracer("millrace/services/otel")}
}

// TraceStart implements services.Tracer.
func (t *Tracer) TraceStart(parent context.Context, op services.Operation) context.Context {
	kind := trace.SpanKindServer
	if op.Kind != services.TraceRequest {
		kind = trace.SpanKindInternal
	}
	attrs := []attribute.KeyValue{
		attribute.String("rpc.system.name", "millrace"),
		attribute.String("rpc.method", op.Name),
		attribute.String("millrace.handle", fmt.Sprintf("%d/%d", op.Handle>>16, op.Handle&0xffff)),
		attribute.String("millrace.kind", op.Kind.String()),
	}
	if op.Session != 0 {
		attrs = append(attrs, attribute.String("millrace.session", op.Session.String()))
	}
	ctx, _ := t.t.Start(parent, op.Name, trace.WithSpanKind(kind), trace.WithAttributes(attrs...))
	return ctx
}

// TraceEnd implements services.Tracer.
func (t *Tracer) TraceEnd(ctx context.Context, err error) {
	span := trace.SpanFromContext(ctx)
	if err != nil {
		e := services.ErrorOf(err)
		span.SetStatus(codes.Error, e.Text)
		span.SetAttributes(attribute.String("error.type", e.Code.String()))
	}
	span.End()
}

// TraceQueryStart implements dbasync.QueryTracer.
func (t *Tracer) TraceQueryStart(ctx context.Context, data pgx.TraceQueryStartData) context.Context {
	name, _, _ := strings.Cut(strings.TrimSpace(data.SQL), " ")
	ctx, _ = t.t.Start(ctx, strings.ToLower(name), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("db.system.name", "postgresql"), attribute.String("db.query.text", data.SQL)))
	return ctx
}

// TraceQueryEnd implements dbasync.QueryTracer.
func (t *Tracer) TraceQueryEnd(ctx context.Context, res dbasync.QueryResult) {
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(attribute.String("millrace.outcome", res.Outcome.String()))
	if res.Err != nil {
		span.SetStatus(codes.Error, res.Outcome.String())
	}
	span.End()
}
