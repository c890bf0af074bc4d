// Package inbox assembles frames that arrive in pieces, and has the reasons for which reading is
// paused. It does not use sockets.
package inbox

import (
	"cmp"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

// Partial is an incomplete frame. Its memory grows with the bytes that have arrived, not to the
// length that the header claims, and is counted in the budget. Loop goroutine.
type Partial struct {
	buf  *bufpool.Buf
	seen int32 // bytes at its start that were searched and contain no whole frame

	// Begun is for the caller's use; it is here because the struct has room for it.
	Begun uint32
}

// searchStep is how many bytes are added at once to a frame whose size is not known, as its framing
// searches for a delimiter.
const searchStep = 4 << 10

// Some reports whether there is an incomplete frame.
func (p *Partial) Some() bool { return p.buf != nil }

// Held returns its memory in bytes.
func (p *Partial) Held() int {
	if p.buf == nil {
		return 0
	}
	return p.buf.Held()
}

// Begin starts with a copy of the first bytes of a frame.
func (p *Partial) Begin(b []byte, bud *budget.Budget) {
	p.buf, p.seen = bufpool.Get(len(b)), 0
	p.buf.B = append(p.buf.B, b...)
	bud.Add(p.buf.Held())
}

// Add appends the bytes of b that belong to the frame. When the frame is whole it is returned, is the
// caller's and is no longer counted in the budget; rest is what follows it in b. Until then frame
// and rest are nil. After an error, which is the codec's, nothing is kept.
func (p *Partial) Add(c *codec.Codec, b []byte, bud *budget.Budget) (frame *bufpool.Buf, rest []byte, err error) {
	for all := b; ; {
		size, missing, err := c.FrameAfter(p.buf.B, int(p.seen))
		behind := len(p.buf.B) - size // bytes after the frame, which are those of the next ones
		if missing == 0 && behind > len(all)-len(b) {
			err = cmp.Or(err, codec.ErrBadFramer)
		}
		if err != nil {
			p.Drop(bud)
			return nil, nil, err
		}
		if missing == 0 {
			frame, p.buf = p.buf, nil
			bud.Add(-frame.Held())
			frame.B = frame.B[:size]
			return frame, all[len(all)-len(b)-behind:], nil
		}
		p.seen = int32(len(p.buf.B))
		if len(b) == 0 {
			return nil, nil, nil
		}
		if size == 0 && c.Searches() {
			missing = max(missing, searchStep)
		}
		n := min(missing, len(b))
		if p.buf.Spare() < n {
			bud.Add(-p.buf.Held())
			p.buf = p.buf.Move(min(len(p.buf.B)+missing, max(2*cap(p.buf.B), len(p.buf.B)+n)))
			bud.Add(p.buf.Held())
		}
		p.buf.B = append(p.buf.B, b[:n]...)
		b = b[n:]
	}
}

// Append appends all of b, of which several frames may be taken by Cut. It must follow a Begin.
func (p *Partial) Append(b []byte, bud *budget.Budget) {
	if p.buf.Off > 0 { // frames that Cut has taken
		p.buf.B = p.buf.B[:copy(p.buf.B, p.buf.Rest())]
		p.buf.Off = 0
	}
	bud.Add(-p.buf.Held())
	p.buf = p.buf.Grow(len(b))
	p.buf.B = append(p.buf.B, b...)
	bud.Add(p.buf.Held())
}

// Cut removes the first frame and returns a copy, which is the caller's; nil if it is not whole. After
// an error, which is the codec's, nothing is kept.
func (p *Partial) Cut(c *codec.Codec, bud *budget.Budget) (frame *bufpool.Buf, err error) {
	b := p.buf.Rest()
	size, missing, err := c.FrameAfter(b, int(p.seen))
	switch {
	case err != nil:
		p.Drop(bud)
		return nil, err
	case size == 0 || missing > 0:
		p.seen = int32(len(b))
		return nil, nil
	}
	frame = bufpool.Get(size)
	frame.B = append(frame.B, b[:size]...)
	p.seen = 0
	if p.buf.Off += size; size == len(b) {
		p.Drop(bud)
	}
	return frame, nil
}

// Take removes and returns all bytes, no longer counted in the budget; nil if there are none.
func (p *Partial) Take(bud *budget.Budget) *bufpool.Buf {
	b := p.buf
	if b != nil {
		bud.Add(-b.Held())
		p.buf = nil
	}
	return b
}

// Missing returns how many bytes the frame lacks, as far as is known.
func (p *Partial) Missing(c *codec.Codec) int {
	if p.buf == nil {
		return 0
	}
	_, missing, _ := c.FrameAfter(p.buf.Rest(), int(p.seen))
	return missing
}

// Drop discards the bytes and frees the memory.
func (p *Partial) Drop(bud *budget.Budget) {
	if p.buf != nil {
		bud.Add(-p.buf.Held())
		p.buf.Free()
		p.buf = nil
	}
}

// Pause is a set of reasons why reading is paused.
type Pause uint8

const (
	PauseOut    Pause = 1 << iota // too much output is unsent
	PauseIn                       // too much input waits for the handler
	PauseBudget                   // the memory budget of all sessions is exceeded
	PauseRate                     // the session has exceeded its rate limit
)

// With returns p with the reason why if n has reached limit, without it if n is at most half of limit,
// and else unchanged.
func (p Pause) With(why Pause, n, limit int) Pause {
	switch {
	case n >= limit:
		return p | why
	case n <= limit/2:
		return p &^ why
	}
	return p
}
