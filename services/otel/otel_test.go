package otel_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/otel"
)

// A query within a call within a request: three spans of one trace, each the child of the one
// around it, with what became of them and no secret in the text of an internal error.
func TestSpansAreChildrenOfWhatMadeThem(t *testing.T) {
	rec := tracetest.NewSpanRecorder()
	p := sdk.NewTracerProvider(sdk.WithSpanProcessor(rec))
	defer p.Shutdown(context.Background())
	tr := otel.New(p)
	request := tr.TraceStart(context.Background(), services.Operation{Kind: services.TraceRequest, Handle: services.Handle(4, 3), Name: "sum", Session: engine.ID(1<<32 | 7)})
	call := tr.TraceStart(request, services.Operation{Kind: services.TraceCall, Handle: services.Handle(4, 4), Name: "inner"})
	query := tr.TraceQueryStart(call, pgx.TraceQueryStartData{SQL: " SELECT $1::text", Args: []any{"private"}})
	tr.TraceQueryEnd(query, dbasync.QueryResult{Outcome: dbasync.NotRun, Err: errors.New("password=hush")})
	tr.TraceEnd(call, &services.Error{Code: engine.CodeConflict, Text: "taken"})
	tr.TraceEnd(request, errors.New("password=hush"))
	var outer trace.SpanID
	ended := rec.Ended()
	if len(ended) != 3 {
		t.Fatalf("%d spans, want 3", len(ended))
	}
	for i, want := range []struct {
		name, key, value string
		kind             trace.SpanKind
		status           string
	}{
		{"sum", "millrace.handle", "4/3", trace.SpanKindServer, "internal error"},
		{"inner", "error.type", "conflict", trace.SpanKindInternal, "taken"},
		{"select", "db.query.text", " SELECT $1::text", trace.SpanKindClient, dbasync.NotRun.String()},
	} {
		s := ended[2-i]
		if s.Name() != want.name || s.SpanKind() != want.kind || s.Status().Code != codes.Error || s.Status().Description != want.status {
			t.Errorf("span %d: %s, %v, %v; want %+v", i, s.Name(), s.SpanKind(), s.Status(), want)
		}
		if s.Parent().SpanID() != outer || s.SpanContext().TraceID() != ended[2].SpanContext().TraceID() {
			t.Errorf("%s is no child of the span around it", s.Name())
		}
		outer = s.SpanContext().SpanID()
		found := false
		for _, a := range s.Attributes() {
			found = found || string(a.Key) == want.key && a.Value.AsString() == want.value
			if v := a.Value.AsString(); v == "private" || v == "password=hush" {
				t.Errorf("%s: %s is %q", s.Name(), a.Key, v)
			}
		}
		if !found {
			t.Errorf("%s: no %s = %q among %v", s.Name(), want.key, want.value, s.Attributes())
		}
	}
}
