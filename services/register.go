package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/serial"
)

// None is the request type of a service that ignores the body, and the result type of one that
// answers with an empty body (or with nothing, when run by a delay event).
type None struct{}

// Validator is implemented by requests that check themselves after decoding; an error is sent as
// ERROR bad_body unless it is an Error.
type Validator interface{ Validate() error }

// Stages are the functions of a service that its author writes. They run one after the other,
// between decoding and encoding. Pre and Last may be nil.
//
// A stage that returns nil continues with the next one; Answer sends the result as it is; any other
// error becomes an ERROR frame (ErrorOf). Every request is answered exactly once: Stop gives ERROR
// internal, except for a OneWay service. A stage that has called Context.Defer returns nil, and the
// remaining stages run later.
type Stages[Req, Res any] struct {
	Pre, Handle, Last func(ctx *Context, req *Req, res *Res) error
}

// Option is an option of a service.
type Option func(*info)

// Name sets the service's name in logs; the default is its handle.
func Name(name string) Option { return func(i *info) { i.name = name } }

// With sets the service's serializer.
func With(s serial.Serializer) Option { return func(i *info) { i.ser = s } }

// Timeout limits the time of a request, including a deferred answer: ERROR timeout. It can't
// interrupt a stage, but the answer of one that took too long is not sent. Forever means that a
// deferred answer has no limit.
func Timeout(d time.Duration) Option { return func(i *info) { i.timeout = d } }

// Forever as a Timeout means no limit.
const Forever = time.Duration(-1)

// Blocking declares that the service's stages block, so they never run on a loop, and requests are
// not reported as stalls until they take 50 times engine.Config.StallAfter (5 s by default).
func Blocking() Option { return func(i *info) { i.blocking = true } }

// OneWay declares that requests of the service get no answer: then Stop sends nothing. Do not use
// it for requests whose callers wait for an answer, such as client.Call.
func OneWay() Option { return func(i *info) { i.oneWay = true } }

// Internal makes the service unavailable to peers: it is for inline calls and delay events. A
// packet for it gets ERROR unknown_handle.
func Internal() Option { return func(i *info) { i.internal = true } }

// Register registers a service for a handle. It is an error if the handle has one, and
// codec.ErrBadHandle if the handle does not fit ControllerConfig.Layout, unless the service is
// Internal.
func Register[Req, Res any](c *Controller, handle uint32, st Stages[Req, Res], opts ...Option) error {
	if st.Handle == nil {
		return fmt.Errorf("services: handle %s: no Handle stage", handleText(handle))
	}
	r := &registered[Req, Res]{c: c, stages: st, info: info{handle: handle, name: handleText(handle)}}
	for _, o := range opts {
		o(&r.info)
	}
	_, r.noBody = any(new(Req)).(*None)
	_, r.noResult = any(new(Res)).(*None)
	_, r.validates = any(new(Req)).(Validator)
	r.calls.New = func() any {
		k := &call[Req, Res]{r: r}
		k.ctx.self = k
		return k
	}
	return c.add(r)
}

// registered is a service with its types.
type registered[Req, Res any] struct {
	c         *Controller
	info      info
	stages    Stages[Req, Res]
	chain     atomic.Pointer[Next] // middleware and call.run; nil without middleware
	calls     sync.Pool            // of *call[Req, Res]
	noBody    bool
	noResult  bool
	validates bool
}

func (r *registered[Req, Res]) meta() *info { return &r.info }

// stage is the state of a call.
type stage uint8

const (
	atPre stage = iota
	atHandle
	atLast
	atEnd
)

// call is a request on its way through the stages.
type call[Req, Res any] struct {
	r    *registered[Req, Res]
	ctx  Context
	body []byte // of the packet, until it is decoded
	req  Req
	res  Res
	next stage
	buf  []byte // for the encoded result
}

// put returns k to the pool, unless its answer is pending: then the Reply keeps it.
func (r *registered[Req, Res]) put(k *call[Req, Res]) {
	if k.ctx.reply != nil {
		if k.ctx.parent != nil || k.ctx.reply.refused {
			k.ctx.endTrace(errRefused)
			k.ctx.release()
		}
		return
	}
	k.ctx.release()
	var req Req
	var res Res
	k.req, k.res, k.body = req, res, nil
	if cap(k.buf) > 64<<10 {
		k.buf = nil
	}
	r.calls.Put(k)
}

// begin gets a call for a request.
func (r *registered[Req, Res]) begin(s *engine.Session, p codec.Packet) *call[Req, Res] {
	k := r.calls.Get().(*call[Req, Res])
	k.body, k.next = p.Body, atPre
	k.ctx.begin(r.c, s, p, &r.info)
	return k
}

// serve runs a packet through the service, in the session's order.
func (r *registered[Req, Res]) serve(s *engine.Session, p codec.Packet) {
	k := r.begin(s, p)
	if r.c.cfg.Tracer != nil {
		k.ctx.traced(TraceRequest, k.serve)
	} else {
		k.serve()
	}
	r.put(k)
}

// serve runs a request, including middleware, and finishes it unless its answer is deferred.
func (k *call[Req, Res]) serve() {
	var err error
	if chain := k.r.chain.Load(); chain != nil {
		err = (*chain)(&k.ctx)
	} else {
		err = k.run()
	}
	k.returned(err)
}

// returned ends a call whose stages have returned, unless its answer is deferred.
func (k *call[Req, Res]) returned(err error) {
	if k.ctx.reply == nil {
		k.finish(err)
	} else {
		k.ctx.reply.returned(err)
	}
}

// run decodes and runs the stages.
func (k *call[Req, Res]) run() error {
	if !k.r.noBody {
		k.ctx.ser = k.r.c.serializer(&k.r.info, k.ctx.s, k.ctx.packet)
		if err := k.ctx.ser.Decode(k.body, &k.req); err != nil {
			return err
		}
		if err := k.validate(); err != nil {
			return err
		}
	}
	return k.steps()
}

func (k *call[Req, Res]) validate() error {
	if !k.r.validates {
		return nil
	}
	err := any(&k.req).(Validator).Validate()
	if err == nil {
		return nil
	}
	var e *Error // declared here, because it is allocated
	if !errors.As(err, &e) {
		return Errorf(engine.CodeBadBody, "%w", err)
	}
	return err
}

// steps runs the remaining stages, until one ends the request or defers it.
func (k *call[Req, Res]) steps() error {
	st := &k.r.stages
	for ; k.next < atEnd; k.next++ {
		fn := st.Handle
		switch k.next {
		case atPre:
			fn = st.Pre
		case atLast:
			fn = st.Last
		}
		if fn == nil {
			continue
		}
		if err := fn(&k.ctx, &k.req, &k.res); err != nil {
			return err
		}
		if k.ctx.reply != nil && !k.ctx.reply.resumed {
			k.next++
			return nil
		}
	}
	return nil
}

// finish sends the answer or ERROR of the request. In the session's order.
func (k *call[Req, Res]) finish(err error) {
	ctx := &k.ctx
	if err == Answer {
		err = nil
	}
	if err == nil && !ctx.deadline.IsZero() && !time.Now().Before(ctx.deadline) {
		err = context.DeadlineExceeded
	}
	var body []byte
	if err == nil {
		if body, err = k.encode(); err != nil {
			err = Errorf(engine.CodeInternal, "internal error: %w", err)
		}
	}
	if err == Stop && (ctx.delayed || ctx.info.oneWay) {
		ctx.endTrace(nil)
	} else {
		ctx.endTrace(err)
	}
	switch {
	case ctx.delayed:
		k.finishEvent(body, err)
	case err == Stop && ctx.info.oneWay:
		if ctx.reply != nil {
			ctx.reply.nothing()
		}
	case err == Stop:
		ctx.c.fail(ctx, &Error{Code: engine.CodeInternal, Text: "not answered", Err: Stop})
	case err != nil:
		ctx.c.fail(ctx, err)
	default:
		ctx.send(answer{packet: ctx.packet, body: body})
	}
}

// finishEvent ends a delay event: its result is sent as a frame.
func (k *call[Req, Res]) finishEvent(body []byte, err error) {
	ctx := &k.ctx
	if ctx.reply != nil {
		ctx.reply.nothing()
	}
	switch {
	case err == Stop:
		err = nil
	case err != nil:
		if held, ok := ctx.info.failures.Due(); ok {
			ctx.Logger().Error("services: delay event failed", "err", err, "omitted", held)
		}
	case ctx.s != nil && !k.r.noResult:
		if err := ctx.s.Push(ctx.packet.Main, ctx.packet.Sub, body); err != nil {
			ctx.c.dropped.Add(1)
		}
	}
	if ctx.ended != nil {
		ctx.ended(err)
	}
}

// encode returns the encoded result, valid until the call is reused.
func (k *call[Req, Res]) encode() ([]byte, error) {
	if k.r.noResult {
		return nil, nil
	}
	if k.ctx.ser == nil {
		k.ctx.ser = k.r.c.serializer(&k.r.info, k.ctx.s, k.ctx.packet)
	}
	b, err := k.ctx.ser.Append(k.buf[:0], &k.res)
	k.buf = b
	return b, err
}

// keep copies what the request shares with its packet: raw bytes.
func (k *call[Req, Res]) keep() {
	if b, ok := any(&k.req).(*[]byte); ok {
		*b = bytes.Clone(*b)
	}
}

// resume continues after Defer.
func (k *call[Req, Res]) resume(res any, err error) {
	switch v := res.(type) {
	case nil:
	case Res:
		k.res = v
	case *Res:
		k.res = *v
	default:
		if err == nil {
			err = fmt.Errorf("services: Done called with a %T: %w", res, ErrTypes)
		}
	}
	if err == nil {
		err = k.steps()
	}
	k.finish(err)
	k.ctx.release()
}
