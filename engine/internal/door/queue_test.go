package door

import (
	"slices"
	"testing"
)

// Clients that give up while their handshakes wait in the queue don't make it grow, and those that
// stay keep their order.
func TestClosedHandshakesLeaveTheQueue(t *testing.T) {
	s := &handshakes{open: map[*conn]struct{}{}}
	var stay, left []*conn
	for i := range 20_000 {
		c := &conn{}
		s.mu.Lock()
		s.open[c] = struct{}{}
		s.enqueueLocked(c)
		if i%1000 == 0 {
			stay = append(stay, c)
		} else {
			delete(s.open, c) // as leave does
		}
		n, most := len(s.queue), 2*len(s.open)+queueSlack+2
		s.mu.Unlock()
		if n > most {
			t.Fatalf("%d are queued, want %d at most", n, most)
		}
	}
	for _, c := range s.queue {
		if slices.Contains(stay, c) {
			left = append(left, c)
		}
	}
	if !slices.Equal(left, stay) {
		t.Errorf("of %d that stay %d are queued, or in another order", len(stay), len(left))
	}
}
