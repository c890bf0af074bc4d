//go:build race

package bufpool

import (
	"bytes"
	"testing"
)

// Who keeps bytes that were given back finds others in them.
func TestFreedBytesArePoisoned(t *testing.T) {
	for _, n := range []int{10, 5000, 3 << 20} {
		b := Get(n)
		b.B = append(b.B, "kept beyond its time"...)
		kept := b.B
		b.Free()
		if want := bytes.Repeat([]byte{poisoned}, len(kept)); !bytes.Equal(kept, want) {
			t.Errorf("of %d: %q", n, kept)
		}
	}
}
