package services_test

import (
	"context"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
)

type userKey struct{}

// Values set by middleware are visible to the stages, to inline calls and after Defer, and never to
// another request.
func TestMiddlewarePassesValuesOn(t *testing.T) {
	hInner := hOther + 1
	r := serve(t, nil, func(c *services.Controller) {
		c.Use(hOther, hOther, func(next services.Next) services.Next {
			return func(ctx *services.Context) error {
				if ctx.Value(userKey{}) != nil {
					t.Error("a new request has a value")
				}
				ctx.Set(userKey{}, 1)
				ctx.Set(userKey{}, 7)
				return next(ctx)
			}
		})
		must(t, services.Register(c, hInner, services.Stages[order, order]{
			Handle: func(ctx *services.Context, _, res *order) error {
				res.ID, _ = ctx.Value(userKey{}).(int)
				ctx.Set(userKey{}, 100) // its caller keeps its own
				return nil
			}}))
		must(t, services.Register(c, hOther, services.Stages[order, order]{
			Pre: func(ctx *services.Context, req, _ *order) error {
				if reply := ctx.Defer(); req.Wait {
					go reply.Done(nil, nil)
				} else {
					reply.DoneHere(nil, nil)
				}
				return nil
			},
			Handle: func(ctx *services.Context, req, res *order) (err error) {
				*res, err = services.Inline[order, order](ctx, hInner, *req)
				res.ID += ctx.Value(userKey{}).(int)
				return err
			}}))
	})
	c := r.dial(nil)
	for i := range 20 {
		if res := call[order](t, c, hOther, order{Wait: i%2 == 0}); res.ID != 14 {
			t.Fatalf("got %d, want 14", res.ID)
		}
	}
	if res := call[order](t, c, hInner, order{}); res.ID != 0 {
		t.Errorf("a value of another request: %d", res.ID)
	}
}

// A request's context ends with its session, and the hooks are told of both of its ends.
func TestContextsAndHooksEndWithTheSession(t *testing.T) {
	contexts := make(chan context.Context, 2)
	var accepted, closed atomic.Int32
	r := serve(t, nil, func(c *services.Controller) {
		c.OnAccept(func(*engine.Session) { accepted.Add(1) })
		c.OnAccept(func(*engine.Session) { accepted.Add(10) })
		c.OnClose(func(_ *engine.Session, why engine.Reason) { closed.Add(1) })
		handle := func(ctx *services.Context, _, _ *order) error {
			ctx.Defer()
			contexts <- ctx.Lasting()
			return nil
		}
		must(t, services.Register(c, hOther, services.Stages[order, order]{Handle: handle}))
		must(t, services.Register(c, hOther+1, services.Stages[order, order]{Handle: handle}, services.Timeout(time.Hour)))
	})
	w := r.wire()
	w.send(hOther, `{"id":1}`)
	w.send(hOther+1, `{"id":1}`)
	first, second := <-contexts, <-contexts
	if first.Err() != nil || second.Err() != nil {
		t.Fatal("ended too early")
	}
	must(t, w.Conn.(*net.TCPConn).SetLinger(0)) // a reset
	_ = w.Close()
	for _, ctx := range []context.Context{first, second} {
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
			t.Fatal("a context outlives its session")
		}
	}
	r.gone()
	if accepted.Load() != 11 || closed.Load() != 1 {
		t.Errorf("accept hooks %d, want 11; close hooks %d, want 1", accepted.Load(), closed.Load())
	}
}

// A context made of a request's ends with the session, and meanwhile nothing looks at the
// request, which is another's by then.
func TestContextsOfARequestOutliveIt(t *testing.T) {
	const requests = 50
	kept := make(chan context.Context, requests)
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hOther, services.Stages[order, order]{
			Handle: func(ctx *services.Context, _, _ *order) error {
				child, cancel := context.WithCancel(ctx)
				t.Cleanup(cancel)
				kept <- child
				return nil
			}}))
	})
	c := r.dial(nil)
	call[order](t, c, hOther, order{})
	before := runtime.NumGoroutine()
	for range requests - 1 {
		call[order](t, c, hOther, order{})
	}
	if n := runtime.NumGoroutine() - before; n > requests/2 {
		t.Errorf("%d goroutines for %d contexts", n, requests)
	}
	c.Close()
	for range requests {
		select {
		case <-(<-kept).Done():
		case <-time.After(time.Minute):
			t.Fatal("a context outlives its session")
		}
	}
}
