package engine

import (
	"context"
	"sync"
	"testing"
	"unsafe"
)

// A session is in the size class of 384 bytes, the next of which is 416.
func TestSessionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Session{}); n > 384 {
		t.Errorf("a session has %d bytes, want 384 at most", n)
	}
}

// What few sessions need is made once, whoever asks for it at the same time, also while the session
// closes.
func TestExtraIsMadeOnce(t *testing.T) {
	d := newDesk(t, Config{Dispatch: Inline, Timeouts: Timeouts{FirstFrameTimeout: Off}}, plain{})
	for range 200 {
		s, _ := d.open(1 << 20)
		d.turns()
		if s.extra.Load() != nil {
			t.Fatal("a session that needs nothing has an extra")
		}
		const askers = 8
		var wg sync.WaitGroup
		start := make(chan bool)
		var extras [askers]*extra
		var sessions, inputs [askers]context.Context
		for i := range askers {
			wg.Go(func() {
				<-start
				text := "bad"
				switch i % 3 {
				case 0:
					extras[i] = s.more()
				case 1:
					s.more().badText.Store(&text)
				}
				sessions[i], inputs[i], extras[i] = s.Context(), s.InputContext(), s.more()
				s.Stats()
			})
		}
		wg.Go(func() {
			<-start
			s.Close()
		})
		close(start)
		wg.Wait()
		d.turns()
		for i := range askers {
			if extras[i] != extras[0] || sessions[i] != sessions[0] || inputs[i] != inputs[0] {
				t.Fatal("two who asked at the same time were given different ones")
			}
		}
		if extras[0].badText.Load() == nil {
			t.Fatal("what one has stored is lost")
		}
		if context.Cause(sessions[0]) != ErrClosed || context.Cause(inputs[0]) != ErrClosed {
			t.Fatalf("the contexts of a closed session have ended with %v and %v", context.Cause(sessions[0]), context.Cause(inputs[0]))
		}
	}
}
