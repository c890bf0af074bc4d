package services_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
)

// spans is a Tracer that writes down what it is told.
type spans struct {
	mu   sync.Mutex
	n    int
	open map[int]string
	all  []string // "kind name in parent: error"
}

type spanKey struct{}

func (s *spans) TraceStart(parent context.Context, op services.Operation) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	in, _ := parent.Value(spanKey{}).(int)
	name := fmt.Sprintf("%v %s in %d", op.Kind, op.Name, in)
	if op.Session == 0 {
		name += " of none"
	}
	s.open[s.n] = name
	return context.WithValue(parent, spanKey{}, s.n)
}

func (s *spans) TraceEnd(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := ctx.Value(spanKey{}).(int)
	text := "ok"
	if err != nil {
		text = services.ErrorOf(err).Code.String()
		if errors.Is(err, net.ErrClosed) {
			text = "closed"
		}
	}
	s.all = append(s.all, fmt.Sprintf("%d %s: %s", n, s.open[n], text))
	delete(s.open, n)
}

func (s *spans) ended(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) < n || len(s.open) > 0 {
		return nil
	}
	return slices.Clone(s.all)
}

// Each request, call and event begins and ends once, however it ends, and is a child of what
// made it.
func TestTracerIsToldOfEachBeginAndEnd(t *testing.T) {
	tr := &spans{open: map[int]string{}}
	inContext := make(chan any, 8)
	type none = services.None
	at := func(sub uint32) uint32 { return services.Handle(1, uint16(sub)) }
	stage := func(fn func(ctx *services.Context) error) services.Stages[none, none] {
		return services.Stages[none, none]{Handle: func(ctx *services.Context, _, _ *none) error { return fn(ctx) }}
	}
	r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) { cc.Tracer = tr }, func(c *services.Controller) {
		must(t, errors.Join(
			services.Register(c, at(1), stage(func(ctx *services.Context) error {
				inContext <- ctx.Value(spanKey{})
				inContext <- ctx.Lasting().Value(spanKey{})
				_, err := services.Inline[none, none](ctx, at(2), none{})
				return err
			}), services.Name("outer")),
			services.Register(c, at(2), stage(func(ctx *services.Context) error { return nil }), services.Name("inner")),
			services.Register(c, at(3), stage(func(ctx *services.Context) error { return services.Errorf(engine.CodeConflict, "no") }), services.Name("fails")),
			services.Register(c, at(4), stage(func(ctx *services.Context) error {
				reply := ctx.Defer()
				go reply.Done(nil, nil)
				return nil
			}), services.Name("later")),
			services.Register(c, at(5), stage(func(ctx *services.Context) error { ctx.Defer(); return nil }), services.Name("never")),
			services.Register(c, at(6), stage(func(ctx *services.Context) error { panic("on purpose") }), services.Name("panics")),
			services.Register(c, at(7), stage(func(ctx *services.Context) error {
				_, err := services.After(ctx, 0.001, at(2), none{}, services.Unbound())
				return err
			}), services.Name("event")),
			services.Register(c, at(8), stage(func(ctx *services.Context) error { return services.Stop }), services.Name("silent"), services.OneWay()),
			c.Raw(at(9), func(s *engine.Session, p codec.Packet) error { return s.Reply(p, nil) }, services.Name("raw"))))
	})
	for _, tc := range []struct {
		handle uint32
		want   []string // the spans in the order of their ends, N for the first of them
	}{
		{1, []string{"N+1 call inner in N: ok", "N request outer in 0: ok"}},
		{3, []string{"N request fails in 0: conflict"}},
		{4, []string{"N request later in 0: ok"}},
		{5, []string{"N request never in 0: closed"}},
		{6, []string{"N request panics in 0: internal"}},
		{7, []string{"N request event in 0: ok", "N+1 event inner in 0 of none: ok"}},
		{8, []string{"N request silent in 0: ok"}},
		{9, []string{"N request raw in 0: ok"}},
	} {
		tr.mu.Lock()
		first := tr.n + 1
		tr.all = nil
		tr.mu.Unlock()
		c := r.dial(nil)
		ctx, cancel := context.WithTimeout(background, time.Minute)
		if tc.handle == 5 || tc.handle == 8 {
			if err := c.Send(ctx, at(tc.handle), nil); err != nil {
				t.Fatal(err)
			}
			if tc.handle == 5 {
				eventually(t, "the request", func() bool { return r.c.Stats().Deferred == 1 })
				r.srv.Sessions(func(s *engine.Session) bool { s.Close(); return true })
			}
		} else {
			_, _ = c.Do(ctx, at(tc.handle), nil)
		}
		cancel()
		var got []string
		eventually(t, "the ends of the spans", func() bool { got = tr.ended(len(tc.want)); return got != nil })
		want := make([]string, len(tc.want))
		for i, w := range tc.want {
			want[i] = strings.NewReplacer("N+1", fmt.Sprint(first+1), "N", fmt.Sprint(first)).Replace(w)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("handle %d: got %q, want %q", tc.handle, got, want)
		}
		c.Close()
		if tc.handle == 1 {
			for range 2 {
				if v := <-inContext; v != first {
					t.Errorf("the stage's context is of span %v, want %d", v, first)
				}
			}
		}
	}
}
