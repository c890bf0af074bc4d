// Package inbox puts the frames together that arrive in pieces, and says when reading
// must pause. It knows nothing of sockets; its caller counts what it holds.
package inbox

import (
	"cmp"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

// Partial is the frame whose rest is still to come. Its memory grows with what has come
// of it, not with what its header claims, and is counted in the budget.
type Partial struct {
	buf  *bufpool.Buf
	seen int32 // bytes of it that have no whole frame

	// Begun is its caller's, and here as there is room for it.
	Begun uint32
}

// searchStep is how many bytes a frame may grow by at once while its size is not known.
const searchStep = 4 << 10

// Some tells whether there is one.
func (p *Partial) Some() bool { return p.buf != nil }

// Held is its memory in bytes.
func (p *Partial) Held() int {
	if p.buf == nil {
		return 0
	}
	return p.buf.Held()
}

// Begin keeps a copy of the first bytes of a frame.
func (p *Partial) Begin(b []byte, bud *budget.Budget) {
	p.buf, p.seen = bufpool.Get(len(b)), 0
	p.buf.B = append(p.buf.B, b...)
	bud.Add(p.buf.Held())
}

// Add adds what belongs to the frame and returns the rest of b. When the frame is whole
// it is returned and no longer counted. After an error nothing is kept.
func (p *Partial) Add(c *codec.Codec, b []byte, bud *budget.Budget) (frame *bufpool.Buf, rest []byte, err error) {
	for all := b; ; {
		size, missing, err := c.FrameAfter(p.buf.B, int(p.seen))
		behind := len(p.buf.B) - size // of the next frames
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

// Append adds b, whatever it belongs to. There is some already.
func (p *Partial) Append(b []byte, bud *budget.Budget) {
	if p.buf.Off > 0 { // what Cut has left in front
		p.buf.B = p.buf.B[:copy(p.buf.B, p.buf.Rest())]
		p.buf.Off = 0
	}
	bud.Add(-p.buf.Held())
	p.buf = p.buf.Grow(len(b))
	p.buf.B = append(p.buf.B, b...)
	bud.Add(p.buf.Held())
}

// Cut takes the first frame off what there is; nil: it is not whole. After an error nothing
// is kept.
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

// Take gives up what there is; nil: nothing.
func (p *Partial) Take(bud *budget.Budget) *bufpool.Buf {
	b := p.buf
	if b != nil {
		bud.Add(-b.Held())
		p.buf = nil
	}
	return b
}

// Missing is how many bytes the frame still wants, as far as is known.
func (p *Partial) Missing(c *codec.Codec) int {
	if p.buf == nil {
		return 0
	}
	_, missing, _ := c.FrameAfter(p.buf.Rest(), int(p.seen))
	return missing
}

// Drop gives the memory back.
func (p *Partial) Drop(bud *budget.Budget) {
	if p.buf != nil {
		bud.Add(-p.buf.Held())
		p.buf.Free()
		p.buf = nil
	}
}

// Pause is why reading is paused: a set of bits.
type Pause uint8

const (
	PauseOut    Pause = 1 << iota // too much is unsent
	PauseIn                       // too much waits for the handler
	PauseBudget                   // all sessions together hold too much
	PauseRate                     // too much has come in too short a time
)

// With adds a reason when n is at its limit and takes it away at half of it.
func (p Pause) With(why Pause, n, limit int) Pause {
	switch {
	case n >= limit:
		return p | why
	case n <= limit/2:
		return p &^ why
	}
	return p
}
