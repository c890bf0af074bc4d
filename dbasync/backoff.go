package dbasync

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is a pause that doubles; each is random within its upper half, so that the lanes of many
// processes do not reconnect at the same moment.
type backoff struct{ min, max, next time.Duration }

func newBackoff(lo, hi time.Duration) *backoff { return &backoff{lo, hi, lo} }

func (b *backoff) reset() { b.next = b.min }

// wait pauses, or returns early when ctx ends.
func (b *backoff) wait(ctx context.Context) {
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(b.max, b.next*2)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
