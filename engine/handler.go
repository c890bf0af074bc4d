package engine

import (
	"millrace/codec"
)

// Handler handles a server's events. The three callbacks of one session never run concurrently and
// are always in order: accept, then reads, then close, once. The callbacks of different sessions do
// run concurrently, on the workers and, with inline or adaptive dispatch, on the loops.
//
// A callback that panics closes its session with ReasonPanic; the server continues.
type Handler interface {
	// OnSocketAccept is the first call for a session.
	OnSocketAccept(s *Session)
	// OnSocketRead handles one packet. p.Body is valid until it returns; to keep it longer use
	// p.Clone().
	OnSocketRead(s *Session, p codec.Packet)
	// OnSocketClose is the last call for a session. Sends fail by then; data sent before may still
	// be in transmission.
	OnSocketClose(s *Session, why Reason)
}

// HandleKnower is a Handler that knows which handles it serves. With Costs all others share one
// account, so that peers can't use up the accounts with invented handles. Knows is called from any
// goroutine, and must be quick.
type HandleKnower interface {
	Knows(handle uint32) bool
}

// FinHandler is a Handler that is notified of a peer's FIN: no more requests will arrive, but
// answers may be pending (see Session.Hold). OnSocketFin runs in the session's order, after what
// was read before the FIN; OnSocketClose follows when no answers are pending.
type FinHandler interface {
	OnSocketFin(s *Session)
}
