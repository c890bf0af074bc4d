package engine

import (
	"millrace/codec"
)

// Handler receives a server's events. The three callbacks of one session never run
// at the same time and never out of order: accept, then reads, then close, once. The
// callbacks of different sessions do run at the same time, on the workers and, with
// inline or adaptive dispatch, on the loops.
//
// A callback that panics closes its session with ReasonPanic; the server lives on.
type Handler interface {
	// OnSocketAccept is the first call for a session.
	OnSocketAccept(s *Session)
	// OnSocketRead brings one packet. p.Body is valid until it returns; p.Clone() keeps it.
	OnSocketRead(s *Session, p codec.Packet)
	// OnSocketClose is the last call for a session. Sends fail by then; what was sent
	// before is still on its way out.
	OnSocketClose(s *Session, why Reason)
}

// HandleKnower is a Handler that says which handles it serves. With Costs the others share one
// account: peers that ask for what there is not can't use up those of the handles that are.
// Knows is called from any goroutine, and must be quick.
type HandleKnower interface {
	Knows(handle uint32) bool
}

// FinHandler is a Handler that wants to know of a peer's FIN: no more requests will
// come, but answers may still be owed (see Session.Hold). It runs in the session's
// order, after what was read before the FIN; OnSocketClose follows when nothing is owed.
type FinHandler interface {
	OnSocketFin(s *Session)
}
