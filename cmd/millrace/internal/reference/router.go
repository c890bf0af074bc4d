package reference

import (
	"errors"
	"fmt"
	"maps"

	"millrace/cmd/millrace/internal/strictjson"
	"millrace/codec"
	"millrace/engine"
)

// Func answers one packet. p.Body is valid until it returns.
type Func func(s *engine.Session, p codec.Packet)

// Router is an engine.Handler that calls what is registered for a packet's handle.
type Router struct {
	routes   map[uint32]Func
	near     [8][16]Func // the routes of small Main and Sub again: an index costs less than a map
	dispatch map[uint32]engine.Dispatch
	fins     []func(s *engine.Session)
	closes   []func(s *engine.Session, why engine.Reason)
}

// NewRouter returns a Router that knows no handle.
func NewRouter() *Router {
	return &Router{routes: map[uint32]Func{}, dispatch: map[uint32]engine.Dispatch{}}
}

// Handle registers f for a handle. A handle that is taken is a bug, and panics.
func (r *Router) Handle(main, sub uint16, f Func) {
	h := codec.Packet{Main: main, Sub: sub}.Handle()
	if r.routes[h] != nil {
		panic(fmt.Sprintf("reference: %d/%d is registered twice", main, sub))
	}
	r.routes[h] = f
	if int(main) < len(r.near) && int(sub) < len(r.near[0]) {
		r.near[main][sub] = f
	}
}

// Blocking is Handle for an f that may block: it always runs on a worker.
func (r *Router) Blocking(main, sub uint16, f Func) {
	r.Handle(main, sub, f)
	r.dispatch[codec.Packet{Main: main, Sub: sub}.Handle()] = engine.Ordered
}

// Controller is a handler of its own that serves some of the handles.
type Controller interface {
	engine.Handler
	engine.FinHandler
	Handles() []uint32
	Dispatch() map[uint32]engine.Dispatch
}

// Mount has c serve its handles, and tells it of every session's end.
func (r *Router) Mount(c Controller) {
	for _, h := range c.Handles() {
		main, sub := codec.Split(h)
		r.Handle(main, sub, c.OnSocketRead)
	}
	maps.Copy(r.dispatch, c.Dispatch())
	r.OnFin(c.OnSocketFin)
	r.OnClose(c.OnSocketClose)
}

// OnFin registers f for a session's FIN. Several run in the order of registration.
func (r *Router) OnFin(f func(s *engine.Session)) { r.fins = append(r.fins, f) }

// OnClose registers f for a session's end. Several run in the order of registration.
func (r *Router) OnClose(f func(s *engine.Session, why engine.Reason)) {
	r.closes = append(r.closes, f)
}

// Dispatch is what engine.Config.Handles must say for what is registered. It is a copy.
func (r *Router) Dispatch() map[uint32]engine.Dispatch {
	return maps.Clone(r.dispatch)
}

// OnSocketAccept does nothing: a session has no state before its first request.
func (r *Router) OnSocketAccept(*engine.Session) {}

// OnSocketRead calls what is registered for p's handle; ERROR 2 when nothing is.
func (r *Router) OnSocketRead(s *engine.Session, p codec.Packet) {
	if f := r.find(p); f != nil {
		f(s, p)
		return
	}
	Refuse(s, p, engine.CodeUnknownHandle, fmt.Sprintf("no handler for %d/%d", p.Main, p.Sub))
}

func (r *Router) find(p codec.Packet) Func {
	if int(p.Main) < len(r.near) && int(p.Sub) < len(r.near[0]) {
		return r.near[p.Main][p.Sub]
	}
	return r.routes[p.Handle()]
}

// OnSocketFin tells those that asked with OnFin.
func (r *Router) OnSocketFin(s *engine.Session) {
	for _, f := range r.fins {
		f(s)
	}
}

// OnSocketClose tells those that asked with OnClose.
func (r *Router) OnSocketClose(s *engine.Session, why engine.Reason) {
	for _, f := range r.closes {
		f(s, why)
	}
}

// Answer replies to p. A body that fits no frame is ERROR 12 instead; a session that
// has gone meanwhile needs no answer.
func Answer(s *engine.Session, p codec.Packet, body []byte) {
	switch err := s.Reply(p, body); {
	case err == nil:
	case errors.Is(err, engine.ErrFrameTooLarge):
		Refuse(s, p, engine.CodeLimit, "the answer does not fit a frame")
	default:
		dropped(s, p, err)
	}
}

// Refuse answers p with an ERROR.
func Refuse(s *engine.Session, p codec.Packet, code engine.ErrorCode, text string) {
	dropped(s, p, s.ReplyError(p, code, text))
}

// dropped logs an answer that could not be sent for another reason than that its
// session has gone.
func dropped(s *engine.Session, p codec.Packet, err error) {
	if err != nil && !errors.Is(err, engine.ErrClosed) {
		s.Logger().Warn("answer dropped", "main", p.Main, "sub", p.Sub, "err", err)
	}
}

// Decode reads p's JSON body into fields; when that fails it answers ERROR 3 and
// returns false.
func Decode(s *engine.Session, p codec.Packet, fields ...strictjson.Field) bool {
	err := strictjson.Decode(p.Body, fields...)
	if err != nil {
		Refuse(s, p, engine.CodeBadBody, err.Error())
	}
	return err == nil
}
