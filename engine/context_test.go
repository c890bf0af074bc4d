package engine

import (
	"context"
	"errors"
	"testing"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// A session's context ends with the session, that of its input when the peer will ask for
// nothing more; both say ErrClosed, also when they are first asked for afterwards.
func TestContextsEndWithTheirPart(t *testing.T) {
	for _, early := range []bool{true, false} {
		for _, how := range []string{"fin", "fin and an answer owed", "close", "reset", "bad frame"} {
			var release func()
			d := newDesk(t, Config{Dispatch: Ordered}, &funcs{read: func(s *Session, _ codec.Packet) { release = s.Hold() }})
			s, _ := d.open(-1)
			d.settleAll()
			var session, input context.Context
			if early {
				session, input = s.Context(), s.InputContext()
				if session.Err() != nil || input.Err() != nil {
					t.Fatalf("%s: ended at the start: %v, %v", how, session.Err(), input.Err())
				}
			}
			switch how {
			case "fin":
				d.l.disconnected(s, netio.EndFIN)
			case "fin and an answer owed":
				d.l.received(s, frame(1, 1, ""))
				d.settleAll()
				d.l.disconnected(s, netio.EndFIN)
			case "close":
				s.Close()
			case "reset":
				d.l.disconnected(s, netio.EndReset)
			case "bad frame":
				d.l.received(s, badLength)
			}
			d.settleAll()
			if !early {
				session, input = s.Context(), s.InputContext()
			}
			if input.Err() == nil || !errors.Is(context.Cause(input), ErrClosed) {
				t.Errorf("%s, asked early %v: the input's context: %v", how, early, context.Cause(input))
			}
			if release != nil {
				if session.Err() != nil {
					t.Errorf("%s, asked early %v: the session's context has ended with an answer owed", how, early)
				}
				release()
				d.settleAll()
			}
			if session.Err() == nil || !errors.Is(context.Cause(session), ErrClosed) {
				t.Errorf("%s, asked early %v: the session's context: %v", how, early, context.Cause(session))
			}
		}
	}
}
