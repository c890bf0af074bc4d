package engine

import (
	"testing"

	"millrace/codec"
)

// Frames that reach a session which has just ended count as dropped, and not twice
// against the memory budget.
func TestFramesBehindTheEndAreDroppedAndNotCounted(t *testing.T) {
	d := newDesk(t, Config{Dispatch: Ordered}, &funcs{})
	s, _ := d.open(-1)
	d.settleAll()
	s.Close()
	waitFor(t, "the strand to end", func() bool {
		s.in.mu.Lock()
		defer s.in.mu.Unlock()
		return s.in.state == stateDone
	})
	d.l.dispatch(s, append(frame(1, 1, "late"), frame(1, 1, "later")...), nil)
	if got := d.Stats(); got.Buffered != 0 || got.Dropped != 2 {
		t.Errorf("got %d buffered, %d dropped, want 0 and 2", got.Buffered, got.Dropped)
	}
	if got := s.Stats().Pending; got != 0 {
		t.Errorf("%d bytes pending, want 0", got)
	}
}

// What a session's close leaves unhandled is given back in full, also a block that was
// handled in part.
func TestCloseInTheMiddleOfABlockGivesTheRestBack(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			reads := 0
			d := newDesk(t, Config{Dispatch: mode}, &funcs{read: func(s *Session, p codec.Packet) {
				if reads++; reads == 3 {
					s.Close()
				}
			}})
			s, w := d.open(-1)
			d.settleAll()
			var b []byte
			for range 10 {
				b = append(b, frame(1, 1, "body")...)
			}
			d.l.traffic(s, append(b, 0, 0, 0)) // and the start of one more
			d.settleAll()
			if !w.finned {
				t.Fatal("no FIN")
			}
			d.l.gone(s, true, false) // the peer's
			d.settleAll()
			st := d.Stats()
			if reads != 3 || st.Dropped != 7 || st.Buffered != 0 || d.table.count() != 0 {
				t.Errorf("%d reads, %d dropped, %d buffered, %d sessions; want 3, 7, 0, 0", reads, st.Dropped, st.Buffered, d.table.count())
			}
		})
	}
}
