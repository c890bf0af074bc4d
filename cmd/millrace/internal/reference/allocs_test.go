//go:build !race

package reference

import "testing"

// Echo, broadcast and the timers' handles allocate nothing, from the socket to the answer.
// The race detector has pools drop things, so it is not asked.
func TestHandlesDoNotAllocate(t *testing.T) {
	for _, r := range requests {
		if r.name == "1/5" {
			continue // its group's name
		}
		t.Run(r.name, func(t *testing.T) {
			// What else goes on in the process, such as growing buffers, is a few at most.
			if n := testing.AllocsPerRun(100, r.exchange(t)); n > depth/2 {
				t.Errorf("%v allocations in %d requests", n, depth)
			}
		})
	}
}
