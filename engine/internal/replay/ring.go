package replay

import (
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

const (
	pieceMost = 32 << 10 // bytes of own frames in one piece, but for a frame that is larger

	// PieceCost is about what a piece costs beside its bytes.
	PieceCost = 48
)

// Ring is what was written and has not been acknowledged: whole frames, one behind another,
// in pieces of pooled memory, and a cursor that says how far the present connection has
// been written. The caller's lock guards it. The zero Ring is not usable: see Init.
//
// Invariant: pieces[i].last is the number behind the last whole frame of a piece and grows
// from one piece to the next, but for a last piece that holds the beginning of one frame;
// first ≤ sent ≤ end unless the ring is parked, and first ≤ most ≤ end.
type Ring struct {
	size   func(b []byte) int // of the whole frame at the start of b
	budget *budget.Budget

	pieces []piece
	bytes  int    // of the frames kept
	unsent int    // of them behind the cursor, without an incomplete frame
	open   int    // bytes still to come of the last frame
	first  uint64 // the first frame kept
	end    uint64 // behind the last whole frame
	most   uint64 // behind the last frame that any connection was written whole
	left   int    // bytes that Next has returned and Wrote has not counted
	under  uint64 // behind the last frame of those: the peer may have received them; 0: there are none
	might  uint64 // behind the last frame that was being written when its connection was given up
	acked  uint64 // an acknowledgement that came before Wrote was called for its frames

	// The cursor: of pieces[at] the bytes below off have been written. sent is a frame that
	// may not have been written whole, and mark where it begins in pieces[at].
	at, off, mark int
	sent          uint64
	parked        bool // there is no connection, and the cursor means nothing
}

// piece is some memory with frames in it. It holds one reference to buf.
type piece struct {
	buf    *bufpool.Buf
	off    int    // frames below it are no longer kept
	last   uint64 // the number behind its last whole frame
	shared bool   // others refer to buf as well: nothing is added to it
}

// Init sets a ring up. size tells how long the whole frame at the start of some bytes is.
func (r *Ring) Init(size func(b []byte) int, b *budget.Budget) { r.size, r.budget = size, b }

// Bytes is how many bytes are kept.
func (r *Ring) Bytes() int { return r.bytes }

// First is the number of the first frame that is kept.
func (r *Ring) First() uint64 { return r.first }

// End is the number behind the last whole frame.
func (r *Ring) End() uint64 { return r.end }

// Most returns the number after the last frame that a peer may have received.
func (r *Ring) Most() uint64 {
	r.Sent()
	return max(r.most, r.under, r.might)
}

// AppendFrom appends the whole frames from number n on, which is at least First, to dst.
func (r *Ring) AppendFrom(dst []byte, n uint64) []byte {
	at := r.first
	for i := range r.pieces {
		p := &r.pieces[i]
		b := p.buf.B[p.off:]
		for ; at < p.last; at++ {
			size := r.size(b)
			if at >= n {
				dst = append(dst, b[:size]...)
			}
			b = b[size:]
		}
	}
	return dst
}

// Restore makes an empty ring continue another one: first is the number of the next frame to be
// appended, and the peer may have received those below most.
func (r *Ring) Restore(first, most uint64) {
	r.first, r.end, r.sent, r.most = first, first, first, max(first, most)
}

// Unsent returns how many bytes are still to be written to the present connection.
func (r *Ring) Unsent() int { return r.unsent }

// Open returns how many bytes are missing of a frame that was begun with Begin.
func (r *Ring) Open() int { return r.open }

// Append keeps a whole frame. Its bytes are copied, unless they are found in recent, which
// may be nil.
func (r *Ring) Append(frame []byte, recent *Recent) {
	if recent != nil && len(frame) >= shareFrom && len(frame) <= shareMost {
		r.push(piece{buf: recent.refer(frame, r.budget), shared: true})
	} else {
		t := r.room(len(frame))
		t.buf.B = append(t.buf.B, frame...)
	}
	r.bytes += len(frame)
	r.wait(len(frame))
	r.end++
	r.pieces[len(r.pieces)-1].last = r.end
}

// Begin keeps the first bytes of a frame of that size, whose rest Continue adds. It is not written
// before it is whole.
func (r *Ring) Begin(part []byte, size int) {
	r.add(size)
	r.open = size
	r.Continue(part)
}

// Continue adds the bytes of b that belong to the frame that was begun, and returns how many.
func (r *Ring) Continue(b []byte) int {
	n := min(r.open, len(b))
	t := &r.pieces[len(r.pieces)-1]
	t.buf.B = append(t.buf.B, b[:n]...)
	r.bytes += n
	if r.open -= n; r.open == 0 {
		r.wait(len(t.buf.B))
		r.end++
		t.last = r.end
	}
	return n
}

// wait notes n bytes more to be written.
func (r *Ring) wait(n int) {
	if !r.parked {
		r.unsent += n
	}
}

// room is the last piece, with room for n bytes.
func (r *Ring) room(n int) *piece {
	if k := len(r.pieces); k > 0 {
		t := &r.pieces[k-1]
		switch {
		case t.shared:
		case t.buf.Spare() >= n:
			return t
		default:
			return r.add(max(n, min(2*len(t.buf.B), pieceMost)))
		}
	}
	return r.add(n)
}

// add appends a piece of its own with room for n bytes.
func (r *Ring) add(n int) *piece {
	b := bufpool.Get(n)
	b.Share()
	r.budget.Add(b.Held())
	return r.push(piece{buf: b})
}

func (r *Ring) push(p piece) *piece {
	p.last = r.end
	r.pieces = append(r.pieces, p)
	r.budget.Add(PieceCost)
	return &r.pieces[len(r.pieces)-1]
}

// Next returns the bytes to be written next, up to the end of a whole frame; none if there are none.
// The caller writes what it can and then calls Wrote; what was not written Next returns again, and
// nothing behind it. The bytes do not change; if the caller retains buf, they stay valid after it has
// released its lock.
func (r *Ring) Next() (b []byte, buf *bufpool.Buf) {
	if r.parked {
		return nil, nil
	}
	for r.at < len(r.pieces) {
		p := &r.pieces[r.at]
		if r.off < len(p.buf.B) {
			if r.open > 0 && r.at == len(r.pieces)-1 {
				return nil, nil
			}
			if r.left == 0 {
				r.left, r.under = len(p.buf.B)-r.off, p.last
			}
			return p.buf.B[r.off : r.off+r.left], p.buf
		}
		if r.at == len(r.pieces)-1 {
			return nil, nil // more may be appended to it
		}
		r.sent = p.last
		r.enter(r.at + 1)
	}
	return nil, nil
}

// enter moves the cursor to the beginning of a piece.
func (r *Ring) enter(at int) {
	r.at, r.off = at, 0
	if at < len(r.pieces) {
		r.off = r.pieces[at].off
	}
	r.mark = r.off
}

// Left returns how many bytes the last write has left of what Next returned.
func (r *Ring) Left() int { return r.left }

// Wrote is called when n of the bytes that Next returned have been written. The peer may have received
// and acknowledged them before this call, on this connection or another; and those that are left as
// well, as a connection that encrypts may send them before it is given them again.
func (r *Ring) Wrote(n int) {
	r.off += n
	r.unsent -= n
	if r.left -= n; r.left == 0 {
		r.under = 0
	}
	if r.acked > r.first {
		r.free(min(r.acked, r.Sent()))
	}
}

// leave is called when a connection is given up. The peer may have received all that Next returned.
func (r *Ring) leave() {
	r.Sent()
	r.might = max(r.might, r.under)
	r.left, r.under, r.acked = 0, 0, 0
}

// Sent returns the number after the last frame that was written completely to the present connection.
func (r *Ring) Sent() uint64 {
	if r.parked {
		return r.sent
	}
	if r.at < len(r.pieces) {
		p := &r.pieces[r.at]
		if r.off == len(p.buf.B) && (r.open == 0 || r.at < len(r.pieces)-1) {
			r.mark, r.sent = r.off, p.last
		}
		for r.mark < r.off {
			n := r.size(p.buf.B[r.mark:])
			if r.mark+n > r.off {
				break
			}
			r.mark += n
			r.sent++
		}
	}
	r.most = max(r.most, r.sent)
	return r.sent
}

// Ack frees the frames below n, which the peer has received. False: that many were not sent. An n below
// an earlier one changes nothing.
func (r *Ring) Ack(n uint64) bool {
	sent := r.Sent()
	if n > max(sent, r.under) {
		return false
	}
	if n > sent {
		r.acked = max(r.acked, n)
	}
	r.free(min(n, sent))
	return true
}

// Park says that there is no connection, until Rewind.
func (r *Ring) Park() {
	r.leave()
	r.parked, r.unsent = true, 0
}

// Rewind begins a new connection, whose peer has received the frames below n. False, and nothing
// changes, if frames that it lacks are no longer kept, or it claims frames that were not sent.
func (r *Ring) Rewind(n uint64) bool {
	r.Sent()
	if n < r.first || n > max(r.most, r.under, r.might) {
		return false
	}
	r.leave()
	r.most = max(r.most, n)
	r.parked = true // the cursor, wherever it is, does not count
	r.free(n)
	r.parked = false
	r.sent = n
	r.enter(0)
	r.unsent = r.bytes
	if r.open > 0 {
		r.unsent -= len(r.pieces[len(r.pieces)-1].buf.B)
	}
	return true
}

// Forget frees the oldest frames until at most most bytes are kept, but only frames that have been
// written, to this connection or, while there is none, to any: the peer may have received them.
func (r *Ring) Forget(most int) {
	written := r.Sent()
	if r.parked {
		written = r.most
	}
	over, n := r.bytes-most, r.first
	for i := 0; over > 0 && n < written; i++ {
		p := &r.pieces[i]
		for off := p.off; over > 0 && n < min(written, p.last); n++ {
			size := r.size(p.buf.B[off:])
			off += size
			over -= size
		}
	}
	r.free(n)
}

// free frees the frames below n. Unless the ring is parked, all of them must be before the cursor.
func (r *Ring) free(n uint64) {
	gone := 0
	for r.first < n {
		p := &r.pieces[gone]
		if p.last <= n {
			r.bytes -= len(p.buf.B) - p.off
			r.first = p.last
			gone++
			continue
		}
		size := r.size(p.buf.B[p.off:])
		p.off += size
		r.bytes -= size
		r.first++
	}
	if gone > 0 {
		r.drop(gone)
	}
}

// drop gives the first n pieces back.
func (r *Ring) drop(n int) {
	for i := range r.pieces[:n] {
		release(r.pieces[i].buf, r.budget)
		r.budget.Add(-PieceCost)
	}
	left := copy(r.pieces, r.pieces[n:])
	clear(r.pieces[left:])
	r.pieces = r.pieces[:left]
	if left == 0 && cap(r.pieces) > 8 {
		r.pieces = nil
	}
	if r.at >= n {
		r.at -= n
	} else {
		r.enter(0)
	}
}

// Close gives everything back.
func (r *Ring) Close() {
	r.Park()
	r.drop(len(r.pieces))
	r.bytes, r.unsent, r.open = 0, 0, 0
	r.first, r.sent = r.end, r.end
}

// Release releases a reference that the caller of Next has retained.
func (r *Ring) Release(b *bufpool.Buf) { release(b, r.budget) }

func release(b *bufpool.Buf, bud *budget.Budget) {
	if held, last := b.Release(); last {
		bud.Add(-held)
	}
}
