package services_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
	"millrace/services/serial"
)

type pair struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

type total struct {
	Sum   int64    `json:"sum"`
	Trace []string `json:"trace,omitempty"`
}

var (
	hSum    = services.Handle(4, 3)
	hInline = services.Handle(4, 4)
	hLater  = services.Handle(4, 5)
	hPush   = services.Handle(4, 6)
	hOther  = services.Handle(9, 1)
)

// sum is a service of three stages that shows which of them ran.
var sum = services.Stages[pair, total]{
	Pre: func(_ *services.Context, _ *pair, res *total) error {
		res.Trace = append(res.Trace, "pre")
		return nil
	},
	Handle: func(_ *services.Context, req *pair, res *total) error {
		res.Sum = req.A + req.B
		res.Trace = append(res.Trace, "handle")
		return nil
	},
	Last: func(_ *services.Context, _ *pair, res *total) error {
		res.Trace = append(res.Trace, "last")
		return nil
	},
}

func call[Res any](t *testing.T, c *client.Client, handle uint32, req any) Res {
	t.Helper()
	res, err := client.Call[any, Res](limited(t), c, handle, req)
	if err != nil {
		t.Fatalf("call %d/%d: %v", handle>>16, handle&0xffff, err)
	}
	return res
}

// refused calls and wants an ERROR of that code.
func refused(t *testing.T, c *client.Client, handle uint32, req any, code engine.ErrorCode) {
	t.Helper()
	_, err := client.Call[any, any](limited(t), c, handle, req)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != uint16(code) || e.Handle != handle {
		t.Errorf("call %d/%d with %v: got %v, want error %d (%v)", handle>>16, handle&0xffff, req, err, code, code)
	}
}

func TestRequestGoesThroughTheStages(t *testing.T) {
	r := serve(t, nil, func(c *services.Controller) { must(t, services.Register(c, hSum, sum)) })
	c := r.dial(nil)
	for i := range int64(100) {
		res := call[total](t, c, hSum, pair{i, 1})
		if res.Sum != i+1 || strings.Join(res.Trace, " ") != "pre handle last" {
			t.Fatalf("got %+v", res)
		}
	}
}

func TestAStageCanAnswerStopOrFail(t *testing.T) {
	fail := func(err error) func(*services.Context, *pair, *total) error {
		return func(*services.Context, *pair, *total) error { return err }
	}
	ran := fail(errors.New("must not run"))
	set := func(err error) func(*services.Context, *pair, *total) error {
		return func(_ *services.Context, _ *pair, res *total) error { res.Sum = 7; return err }
	}
	type stages = services.Stages[pair, total]
	cases := []struct {
		name   string
		stages stages
		code   engine.ErrorCode // 0: the answer is 7
	}{
		{"pre answers", stages{Pre: set(services.Answer), Handle: ran, Last: ran}, 0},
		{"handle answers", stages{Handle: set(services.Answer), Last: ran}, 0},
		{"last answers", stages{Handle: set(nil), Last: fail(services.Answer)}, 0},
		{"pre fails", stages{Pre: fail(services.Errorf(engine.CodeConflict, "no")), Handle: ran}, engine.CodeConflict},
		{"handle fails", stages{Handle: fail(services.Errorf(engine.CodeNotFound, "no")), Last: ran}, engine.CodeNotFound},
		{"last fails", stages{Handle: set(nil), Last: fail(fmt.Errorf("x: %w", services.Errorf(engine.CodeUnauthorised, "no")))}, engine.CodeUnauthorised},
		{"a plain error", stages{Handle: fail(errors.New("secret"))}, engine.CodeInternal},
		{"a full cache", stages{Handle: fail(services.ErrCacheFull)}, engine.CodeLimit},
		{"a cluster that is down", stages{Handle: fail(fmt.Errorf("x: %w", services.ErrCacheDown))}, engine.CodeUnavailable},
		{"a cluster that does not answer", stages{Handle: fail(fmt.Errorf("%w: %w", services.ErrCacheDown, context.DeadlineExceeded))}, engine.CodeUnavailable},
	}
	r := serve(t, nil, func(c *services.Controller) {
		for i, tc := range cases {
			must(t, services.Register(c, services.Handle(9, uint16(i)), tc.stages))
		}
		must(t, services.Register(c, hOther+100, stages{Handle: fail(services.Stop)}, services.OneWay()))
		must(t, services.Register(c, hOther+101, stages{Handle: fail(services.Stop)}))
	})
	c := r.dial(nil)
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			h := services.Handle(9, uint16(i))
			if tc.code != 0 {
				refused(t, c, h, pair{}, tc.code)
			} else if res := call[total](t, c, h, pair{}); res.Sum != 7 {
				t.Errorf("got %+v", res)
			}
		})
	}
	_, err := client.Call[any, any](limited(t), c, services.Handle(9, 6), pair{})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a plain error told the peer %v", err)
	}
	// Stop: an ERROR, or nothing where nothing is expected; the session goes on.
	refused(t, c, hOther+101, pair{}, engine.CodeInternal)
	must(t, c.Send(limited(t), hOther+100, []byte(`{"a":1,"b":1}`)))
	call[total](t, c, services.Handle(9, 0), pair{})
	if _, unexpected := c.Stats(); unexpected != 0 {
		t.Error("Stop sent something")
	}
}

type checked struct {
	N int `json:"n"`
}

func (c *checked) Validate() error {
	if c.N > 5 {
		return errors.New("n over 5")
	}
	if c.N < 0 {
		return services.Errorf(engine.CodeLimit, "n below 0")
	}
	return nil
}

func TestBadRequestsGetTheirError(t *testing.T) {
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hSum, sum))
		must(t, services.Register(c, hPush, sum, services.Internal()))
		must(t, services.Register(c, hOther, services.Stages[checked, services.None]{
			Handle: func(*services.Context, *checked, *services.None) error { return nil }}))
		must(t, services.Register(c, hOther+1, services.Stages[services.None, services.None]{
			Handle: func(*services.Context, *services.None, *services.None) error { panic("on purpose") }}))
		must(t, services.Register(c, hOther+2, services.Stages[services.None, services.None]{
			Handle: func(ctx *services.Context, _, _ *services.None) error {
				<-ctx.Done()
				if !errors.Is(ctx.Err(), ctx.Err()) || ctx.Err() == nil {
					t.Error("no error at the deadline")
				}
				return nil
			}}, services.Timeout(20*time.Millisecond), services.Blocking()))
		must(t, services.Register(c, hOther+3, services.Stages[services.None, string]{
			Handle: func(_ *services.Context, _ *services.None, res *string) error {
				*res = strings.Repeat("x", 1<<17)
				return nil
			}}))
	})
	c := r.dial(nil)
	for handle, want := range map[uint32]bool{hSum: true, hPush: false, services.Handle(77, 1): false} {
		if r.c.Knows(handle) != want {
			t.Errorf("%#x is known: %v, want %v", handle, !want, want)
		}
	}
	refused(t, c, services.Handle(77, 1), pair{}, engine.CodeUnknownHandle)
	refused(t, c, hPush, pair{}, engine.CodeUnknownHandle)
	refused(t, c, hSum, map[string]any{"a": 1}, engine.CodeBadBody)
	refused(t, c, hSum, map[string]any{"a": 1, "b": nil}, engine.CodeBadBody)
	refused(t, c, hOther, checked{6}, engine.CodeBadBody)
	refused(t, c, hOther, checked{-1}, engine.CodeLimit)
	call[struct{}](t, c, hOther, checked{5})
	refused(t, c, hOther+2, pair{}, engine.CodeTimeout)
	refused(t, c, hOther+3, pair{}, engine.CodeLimit)
	call[total](t, c, hSum, pair{1, 2})

	if _, err := c.Do(limited(t), hOther+1, nil); err == nil {
		t.Error("a panic: want an error")
	}
	for { // the session ends, and the client connects anew
		res, err := client.Call[pair, total](limited(t), c, hSum, pair{1, 2})
		if errors.Is(err, client.ErrLost) {
			continue
		}
		if res.Sum != 3 || err != nil {
			t.Errorf("after a panic: got %+v, %v", res, err)
		}
		break
	}
	if s := r.c.Stats(); s.Unknown != 2 || s.Failed != 6 {
		t.Errorf("stats: %+v", s)
	}
}

func TestTwoServicesOnOneHandleIsAnError(t *testing.T) {
	c, err := services.NewController(services.ControllerConfig{})
	must(t, err)
	must(t, services.Register(c, hSum, sum, services.Name("first")))
	err = services.Register(c, hSum, sum, services.Name("second"))
	if err == nil || !strings.Contains(err.Error(), "4/3") || !strings.Contains(err.Error(), "first") || !strings.Contains(err.Error(), "second") {
		t.Errorf("got %v, want an error that names both", err)
	}
	if err := services.Register(c, hOther, services.Stages[pair, total]{}); err == nil {
		t.Error("no Handle stage: want an error")
	}
	if _, err := services.NewController(services.ControllerConfig{MaxDepth: -1}); err == nil {
		t.Error("a negative limit: want an error")
	}
}

func TestAServiceThatTheLayoutHasNoHandleForIsAnError(t *testing.T) {
	c, err := services.NewController(services.ControllerConfig{Layout: codec.Layout{Command: codec.MainSub8}})
	must(t, err)
	for _, h := range []uint32{services.Handle(300, 1), services.Handle(1, 256)} {
		if err := services.Register(c, h, sum, services.Name("sums")); !errors.Is(err, codec.ErrBadHandle) || !strings.Contains(err.Error(), "sums") {
			t.Errorf("%#x: got %v, want codec.ErrBadHandle that names it", h, err)
		}
	}
	must(t, services.Register(c, services.Handle(255, 255), sum))
	must(t, services.Register(c, services.Handle(300, 1), sum, services.Internal())) // nobody sends it
	if _, err := services.NewController(services.ControllerConfig{Layout: codec.Layout{LengthWidth: 3}}); err == nil {
		t.Error("a layout that can't be: want an error")
	}
}

func TestServicesCanBeRegisteredWhileServing(t *testing.T) {
	r := serve(t, nil, func(c *services.Controller) { must(t, services.Register(c, hSum, sum)) })
	c := r.dial(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint16(200) {
			must(t, services.Register(r.c, services.Handle(20, i), sum))
		}
	})
	for range 200 {
		call[total](t, c, hSum, pair{1, 2})
	}
	wg.Wait()
	call[total](t, c, services.Handle(20, 199), pair{1, 2})
}

func TestSerializerOfEachRequest(t *testing.T) {
	pack, proto := serial.MessagePack(serial.Limits{}), serial.Protobuf(serial.Limits{})
	const byPacket = 50
	r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) {
		cc.SerializerFor = func(s *engine.Session, p codec.Packet) serial.Serializer {
			if p.Main == byPacket {
				return pack
			}
			return nil
		}
	}, func(c *services.Controller) {
		must(t, services.Register(c, services.Handle(byPacket, 1), sum))
		must(t, services.Register(c, hSum, sum))
		must(t, services.Register(c, hOther, sum, services.With(serial.JSON(serial.Limits{}))))
		must(t, services.Register(c, hOther+1, services.Stages[*wrapperspb.Int64Value, *wrapperspb.StringValue]{
			Handle: func(_ *services.Context, req **wrapperspb.Int64Value, res **wrapperspb.StringValue) error {
				*res = wrapperspb.String(fmt.Sprint((*req).Value))
				return nil
			}}, services.With(proto)))
		must(t, services.Register(c, hOther+2, services.Stages[[]byte, []byte]{
			Handle: func(_ *services.Context, req, res *[]byte) error { *res = *req; return nil },
		}, services.With(serial.Raw(serial.Limits{}))))
		must(t, services.Register(c, hOther+3, services.Stages[services.None, services.None]{
			Handle: func(ctx *services.Context, _, _ *services.None) error {
				ctx.Controller().SetSerializer(ctx.Session(), pack)
				return nil
			}}))
	})
	inJSON := r.dial(nil)
	inPack := r.dial(func(cfg *client.Config) { cfg.Serializer = pack })
	inProto := r.dial(func(cfg *client.Config) { cfg.Serializer = proto })
	check := func(c *client.Client, h uint32) {
		t.Helper()
		if res := call[total](t, c, h, pair{20, 3}); res.Sum != 23 {
			t.Errorf("got %+v", res)
		}
	}
	check(inPack, services.Handle(byPacket, 1)) // the request's own
	check(inJSON, hSum)                         // JSON by default
	refused(t, inPack, hSum, pair{1, 2}, engine.CodeBadBody)
	call[struct{}](t, inPack, hOther+3, struct{}{})
	check(inPack, hSum) // the session's
	check(inJSON, hSum) // of that session only
	check(inJSON, hOther)
	refused(t, inPack, hOther, pair{1, 2}, engine.CodeBadBody) // the service's comes first
	res, err := client.Call[*wrapperspb.Int64Value, *wrapperspb.StringValue](limited(t), inProto, hOther+1, wrapperspb.Int64(77))
	if err != nil || res.Value != "77" {
		t.Errorf("protobuf: got %v, %v", res, err)
	}
	if b, err := inJSON.Do(limited(t), hOther+2, []byte{0, 1, 255}); err != nil || string(b) != "\x00\x01\xff" {
		t.Errorf("raw: got %q, %v", b, err)
	}
}

func TestMiddleware(t *testing.T) {
	var metrics services.Metrics
	var mu sync.Mutex
	var order []string
	note := func(name string) services.Middleware {
		return func(next services.Next) services.Next {
			return func(ctx *services.Context) error {
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				return next(ctx)
			}
		}
	}
	hLogin := services.Handle(8, 1)
	r := serve(t, nil, func(c *services.Controller) {
		c.UseAll(metrics.Middleware(), note("all"))
		must(t, services.Register(c, hLogin, services.Stages[services.None, services.None]{
			Handle: func(ctx *services.Context, _, _ *services.None) error {
				ctx.Session().SetValue("somebody")
				return nil
			}}))
		must(t, services.Register(c, hSum, sum))
		c.Use(services.Handle(4, 0), services.Handle(4, 0xffff), note("four"),
			services.Auth(func(ctx *services.Context) bool { return ctx.Session().Value() != nil }))
		must(t, services.Register(c, hOther, sum))
		c.Use(hOther, hOther, services.RateLimit(0.001, 3))
	})
	c := r.dial(nil)
	refused(t, c, hSum, pair{}, engine.CodeUnauthorised)
	call[struct{}](t, c, hLogin, struct{}{})
	call[total](t, c, hSum, pair{1, 2})
	mu.Lock()
	if got := strings.Join(order, " "); got != "all four all all four" {
		t.Errorf("order: got %q", got)
	}
	mu.Unlock()
	for range 3 {
		call[total](t, c, hOther, pair{})
	}
	refused(t, c, hOther, pair{}, engine.CodeLimit)
	call[total](t, r.dial(nil), hOther, pair{}) // another session's own
	m := metrics.Snapshot()
	if h := m[hSum]; h.Requests != 2 || h.Errors[engine.CodeUnauthorised] != 1 || h.Time <= 0 {
		t.Errorf("metrics of sum: %+v", h)
	}
	if h := m[hOther]; h.Requests != 5 || h.Errors[engine.CodeLimit] != 1 {
		t.Errorf("metrics of the limited one: %+v", h)
	}
}

func TestInlineRunsThePreHandleAndLast(t *testing.T) {
	var middle atomic.Int32
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hSum, sum))
		c.Use(hSum, hSum, func(next services.Next) services.Next {
			return func(ctx *services.Context) error { middle.Add(1); return next(ctx) }
		})
		must(t, services.Register(c, hInline, services.Stages[pair, total]{
			Handle: func(ctx *services.Context, req *pair, res *total) (err error) {
				first, err := services.Inline[pair, total](ctx, hSum, *req)
				if err != nil {
					return err
				}
				*res, err = services.Inline[pair, total](ctx, hSum, pair{first.Sum, 0})
				return err
			}}))
	})
	res := call[total](t, r.dial(nil), hInline, pair{4, 5})
	if res.Sum != 9 || strings.Join(res.Trace, " ") != "pre handle last" || middle.Load() != 0 {
		t.Errorf("got %+v, middleware ran %d times", res, middle.Load())
	}
}

func TestInlineErrors(t *testing.T) {
	c, err := services.NewController(services.ControllerConfig{MaxDepth: 5})
	must(t, err)
	type stages = services.Stages[pair, total]
	to := func(h uint32) stages {
		return stages{Handle: func(ctx *services.Context, req *pair, res *total) (err error) {
			*res, err = services.Inline[pair, total](ctx, h, *req)
			return err
		}}
	}
	must(t, services.Register(c, services.Handle(1, 1), to(services.Handle(1, 2))))
	must(t, services.Register(c, services.Handle(1, 2), to(services.Handle(1, 1))))
	must(t, services.Register(c, services.Handle(1, 3), stages{Handle: func(ctx *services.Context, _ *pair, _ *total) error {
		ctx.Defer().Done(nil, nil)
		return nil
	}}))
	must(t, services.Register(c, services.Handle(1, 4), stages{Handle: func(_ *services.Context, _ *pair, res *total) error {
		res.Sum = 5
		return services.Answer
	}}))
	ctx := c.Context(nil)
	_, err = services.Inline[pair, total](ctx, services.Handle(1, 1), pair{})
	if !errors.Is(err, services.ErrDepth) || !strings.Contains(err.Error(), "1/1 > 1/2 > 1/1") || !strings.Contains(err.Error(), "a cycle of 2") {
		t.Errorf("a circle: got %v", err)
	}
	if _, err = services.Inline[pair, total](ctx, services.Handle(1, 3), pair{}); !errors.Is(err, services.ErrDeferred) {
		t.Errorf("a service that answers later: got %v", err)
	}
	if _, err = services.Inline[pair, total](ctx, services.Handle(9, 9), pair{}); !errors.Is(err, services.ErrUnknownHandle) {
		t.Errorf("nobody there: got %v", err)
	}
	if _, err = services.Inline[pair, int](ctx, services.Handle(1, 4), pair{}); !errors.Is(err, services.ErrTypes) {
		t.Errorf("other types: got %v", err)
	}
	if res, err := services.Inline[pair, total](ctx, services.Handle(1, 4), pair{}); res.Sum != 5 || err != nil {
		t.Errorf("an early answer: got %+v, %v", res, err)
	}
}
