package services

import (
	"errors"
	"fmt"
	"net"

	"millrace/codec"
	"millrace/engine"
)

// RawFunc serves a packet without decoding. It is called in the session's order and answers through
// the session itself; p.Body is valid until it returns. An error is sent like that of a stage
// (ErrorOf), unless the session has closed.
type RawFunc func(s *engine.Session, p codec.Packet) error

// Raw registers fn for a handle, without serializer, Context, middleware and inline calls: for
// handles that must be cheap, as nothing is allocated and fn is called directly after the lookup of
// the handle. Only the options Name and Blocking may be given. Otherwise it is like Register.
//
// Answers of a Raw handle are sent at once; they can't be deferred.
func (c *Controller) Raw(handle uint32, fn RawFunc, opts ...Option) error {
	if fn == nil {
		return fmt.Errorf("services: handle %s: no function", handleText(handle))
	}
	r := &raw{c: c, fn: fn, info: info{handle: handle, name: handleText(handle)}}
	for _, o := range opts {
		o(&r.info)
	}
	if r.info.internal || r.info.oneWay || r.info.timeout != 0 || r.info.ser != nil {
		return fmt.Errorf("services: %s: Raw takes no other options than Name and Blocking", r.info.name)
	}
	return c.add(r)
}

// raw is a service registered with Raw.
type raw struct {
	c    *Controller
	info info
	fn   RawFunc
}

func (r *raw) meta() *info { return &r.info }

func (r *raw) serve(s *engine.Session, p codec.Packet) {
	if r.c.cfg.Tracer != nil {
		r.traced(s, p)
		return
	}
	if err := r.fn(s, p); err != nil {
		r.failed(s, p, err)
	}
}

func (r *raw) failed(s *engine.Session, p codec.Packet, err error) {
	if errors.Is(err, net.ErrClosed) && !s.Connected() {
		r.c.stale.Add(1)
		return
	}
	e := ErrorOf(err)
	r.c.failed.Add(1)
	r.info.meter.failed(e.Code)
	if e.Code == engine.CodeInternal {
		r.c.internal.Add(1)
		if held, ok := r.info.failures.Due(); ok {
			r.c.cfg.Logger.Error("services: request failed", "handle", handleText(r.info.handle), "service", r.info.name,
				"session", s.ID().String(), "err", err, "omitted", held)
		}
	}
	answer{packet: p, code: e.Code, text: e.Text}.write(r.c, s)
}

func (r *raw) setMiddleware([]use) {}

// fireBytes reports an error: the durable event was for a service registered here in the past.
func (r *raw) fireBytes(f fireContext, _ []byte) {
	err := fmt.Errorf("%w: %s", ErrTypes, handleText(r.info.handle))
	if held, ok := r.info.failures.Due(); ok {
		r.c.cfg.Logger.Error("services: delay event failed", "handle", handleText(r.info.handle), "err", err, "omitted", held)
	}
	if f.ended != nil {
		f.ended(err)
	}
}

// registry has the registered services. It is immutable once the controller uses it.
type registry struct {
	all  map[uint32]service
	near [8][16]service // copy of those with small Main and Sub: indexing is cheaper than a map
}

// with returns a copy of the registry that includes sv.
func (r *registry) with(sv service) *registry {
	next := &registry{all: make(map[uint32]service, len(r.all)+1), near: r.near}
	for h, sv := range r.all {
		next.all[h] = sv
	}
	h := sv.meta().handle
	next.all[h] = sv
	if main, sub := codec.Split(h); int(main) < len(next.near) && int(sub) < len(next.near[0]) {
		next.near[main][sub] = sv
	}
	return next
}

// find returns the service for a packet's handle, or nil.
func (r *registry) find(main, sub uint16) service {
	if int(main) < len(r.near) && int(sub) < len(r.near[0]) {
		return r.near[main][sub]
	}
	return r.all[Handle(main, sub)]
}
