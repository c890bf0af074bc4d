package door

import "encoding/binary"

// maxRecord is how much plain text a TLS record has at most, in bytes (RFC 8446, section 5.1).
const maxRecord = 16 << 10

// records counts the TLS records that have come whole, by their headers, which are not encrypted: a type, a version
// and a length of two bytes each but the type. Each Read of crypto/tls that has room for maxRecord takes one, or more
// where some have no data. So after as many Reads, and with no record begun, nothing is left, and crypto/tls need not be
// asked: that would cost an allocation each time.
type records struct {
	n    int     // whole ones
	left int     // bytes to come of the open one
	head [5]byte // of it
	got  uint8   // bytes of head
	ends uint32  // whole ones, ever
}

// add takes the next bytes of the stream.
func (r *records) add(b []byte) {
	for len(b) > 0 {
		if int(r.got) < len(r.head) {
			k := copy(r.head[r.got:], b)
			r.got, b = r.got+uint8(k), b[k:]
			if int(r.got) < len(r.head) {
				return
			}
			r.left = int(binary.BigEndian.Uint16(r.head[3:]))
		}
		k := min(r.left, len(b))
		r.left, b = r.left-k, b[k:]
		if r.left == 0 {
			r.n++
			r.ends++
			r.got = 0
		}
	}
}

// took notes a Read that had data, and tells whether it was the last: crypto/tls has taken all that came.
func (r *records) took() bool {
	r.n--
	return r.n <= 0 && r.got == 0
}
