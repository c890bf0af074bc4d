package reference

import (
	"errors"

	"millrace/codec"
	"millrace/engine"
)

// Echo is the engine.Handler for framings without handles: it answers each frame with itself.
type Echo struct{}

func (Echo) OnSocketAccept(*engine.Session)               {}
func (Echo) OnSocketClose(*engine.Session, engine.Reason) {}

// OnSocketRead answers p with its body. The body was a valid frame, so it can be sent; an error
// means that the session has closed.
func (Echo) OnSocketRead(s *engine.Session, p codec.Packet) {
	if err := s.Reply(p, p.Body); err != nil && !errors.Is(err, engine.ErrClosed) {
		s.Logger().Warn("answer dropped", "err", err)
	}
}
