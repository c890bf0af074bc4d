package replay

import (
	"bytes"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

const (
	shareFrom = 512       // a smaller frame is copied: a reference would cost about as much
	shareMost = 256 << 10 // so that a Recent stays small
	recentLen = 8
)

// Recent is the last few large frames that the rings of one loop were given. A frame that
// many sessions are sent, one after the other, is found here by its bytes and so held once.
// Loop goroutine only.
type Recent struct {
	bufs [recentLen]*bufpool.Buf
	next int
	idle bool
}

// refer returns a Buf with the frame's bytes and one reference for the caller.
func (x *Recent) refer(frame []byte, bud *budget.Budget) *bufpool.Buf {
	x.idle = false
	for _, b := range x.bufs {
		if b != nil && bytes.Equal(b.B, frame) {
			b.Retain()
			return b
		}
	}
	b := bufpool.Get(len(frame))
	b.B = append(b.B, frame...)
	b.Share()
	b.Retain()
	bud.Add(b.Held())
	if old := x.bufs[x.next]; old != nil {
		release(old, bud)
	}
	x.bufs[x.next] = b
	x.next = (x.next + 1) % recentLen
	return b
}

// Tick drops the frames if none has been added since the last Tick.
func (x *Recent) Tick(bud *budget.Budget) {
	if !x.idle {
		x.idle = true
		return
	}
	x.Close(bud)
}

// Close drops the frames.
func (x *Recent) Close(bud *budget.Budget) {
	for i, b := range x.bufs {
		if b != nil {
			release(b, bud)
			x.bufs[i] = nil
		}
	}
}
