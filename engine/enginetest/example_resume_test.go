package enginetest_test

import (
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/engine/enginetest"
)

// counter keeps a sum for its session: 1/1 adds the body's byte and answers with the sum.
type counter struct{}

func (counter) OnSocketAccept(s *engine.Session) { s.SetValue(new(byte)) }

func (counter) OnSocketRead(s *engine.Session, p codec.Packet) {
	sum := s.Value().(*byte)
	*sum += p.Body[0]
	_ = s.Reply(p, []byte{*sum})
}

func (counter) OnSocketClose(*engine.Session, engine.Reason) {}

// A connection breaks at any moment; the client comes back to its session, and every
// request is counted and answered once.
func TestSumGoesOnAfterAReconnect(t *testing.T) {
	enginetest.Run(t, enginetest.Options{Seeds: 50}, func(w *enginetest.World) {
		srv := w.Server(engine.Config{Timeouts: engine.Timeouts{Resume: 30 * time.Second}}, counter{})
		c := w.DialResume(srv)
		for i := range 10 {
			c.Send(1, 1, []byte{1})
			if w.Chance(3) {
				w.Advance(w.Between(0, 3*time.Millisecond))
				c.Reset()
				w.Advance(w.Between(0, 5*time.Second))
				for !c.Reconnect() {
					w.Logf("once more, at request %d", i)
				}
			}
		}
		for i := range 10 {
			c.Want(1, 1, []byte{byte(i + 1)})
		}
	})
}
