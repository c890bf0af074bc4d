package client

import "millrace/codec"

// ring holds the encoded frames of a session that the server has not acknowledged, oldest first.
//
// Invariant: buf[:wrote] are the first given frames, which were passed to the current connection.
// Bytes of buf are never overwritten in place, so the slice returned by take is valid until the
// ring has been empty and gets another frame.
type ring struct {
	buf   []byte
	sizes []int // of the frames in buf, from first on
	first int
	acked uint64 // frames before buf, since the session began
	wrote int    // bytes
	given int    // frames

	base []byte // the array of buf, from its start
	busy bool   // a slice of buf is being written
}

// leastRing is the smallest array of a ring, and keptRing the largest that an empty one keeps.
const (
	leastRing = 4 << 10
	keptRing  = 64 << 10
)

// push adds p's frame.
func (r *ring) push(c *codec.Codec, p codec.Packet) error {
	switch need := len(p.Body) + 64; {
	case len(r.buf) == 0 && !r.busy && cap(r.base) >= need && cap(r.base) <= keptRing:
		r.buf = r.base
	case cap(r.buf)-len(r.buf) < need:
		buf := make([]byte, len(r.buf), max(leastRing, 2*(len(r.buf)+need)))
		copy(buf, r.buf)
		r.buf, r.base = buf, buf[:0]
	}
	before, room := len(r.buf), cap(r.buf)
	buf, err := c.Append(r.buf, p)
	if err != nil {
		return err
	}
	if r.buf = buf; cap(buf) != room {
		r.base = buf[:0]
	}
	if len(r.sizes) == cap(r.sizes) && r.first > len(r.sizes)/2 {
		r.sizes = r.sizes[:copy(r.sizes, r.sizes[r.first:])]
		r.first = 0
	}
	r.sizes = append(r.sizes, len(buf)-before)
	return nil
}

// ack drops the first n frames since the session began, which the server has received; a smaller n
// than before is ignored. It returns false if fewer frames were passed to the connection.
func (r *ring) ack(n uint64) bool {
	if n <= r.acked {
		return true
	}
	k := n - r.acked
	if k > uint64(r.given) {
		return false
	}
	bytes := 0
	for _, size := range r.sizes[r.first:][:k] {
		bytes += size
	}
	r.acked = n
	r.buf = r.buf[bytes:]
	r.wrote -= bytes
	r.given -= int(k)
	if r.first += int(k); r.first == len(r.sizes) {
		r.sizes, r.first = r.sizes[:0], 0
	}
	return true
}

// unsent returns how many bytes were not passed to the connection.
func (r *ring) unsent() int { return len(r.buf) - r.wrote }

// take returns the unsent bytes, and marks them as passed to the connection.
func (r *ring) take() []byte {
	b := r.buf[r.wrote:]
	r.wrote, r.given = len(r.buf), len(r.sizes)-r.first
	r.busy = len(b) > 0
	return b
}

// rewind prepares the ring for a new connection: it drops the first n frames, which the server has
// received, and marks the others as unsent. n must be between acked and the number of frames
// written.
func (r *ring) rewind(n uint64) {
	r.given, r.wrote = len(r.sizes)-r.first, len(r.buf)
	r.ack(n)
	r.wrote, r.given, r.busy = 0, 0, false
}
