package reference

import (
	"errors"

	"millrace/codec"
	"millrace/engine"
)

// Echo is the engine.Handler for framings without handles: each frame is its own answer.
type Echo struct{}

func (Echo) OnSocketAccept(*engine.Session)               {}
func (Echo) OnSocketClose(*engine.Session, engine.Reason) {}

// OnSocketRead answers p with its body. What was a frame is one again; a session that takes
// no answer has gone.
func (Echo) OnSocketRead(s *engine.Session, p codec.Packet) {
	if err := s.Reply(p, p.Body); err != nil && !errors.Is(err, engine.ErrClosed) {
		s.Logger().Warn("answer dropped", "err", err)
	}
}
