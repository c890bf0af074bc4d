package door

import "encoding/binary"

// maxRecord is how much plain text a TLS record has at most, in bytes (RFC 8446, section 5.1).
const maxRecord = 16 << 10

// records counts the complete TLS records received, by their headers, which are not encrypted: a type
// of one byte, a version and a length of two bytes each. Each Read of crypto/tls with a buffer of at
// least maxRecord takes one record, or more if some have no data. So after that many Reads, if no
// record is incomplete, nothing is left to read, and a further Read, which would allocate its error,
// is avoided.
type records struct {
	n    int     // complete records not taken yet, at most
	left int     // missing bytes of the incomplete record
	head [5]byte // its header
	got  uint8   // bytes of head received; 0: no record is incomplete
	ends uint32  // complete records ever, modulo 1<<32
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

// took counts a Read that returned data, and reports whether crypto/tls has now taken everything
// received.
func (r *records) took() bool {
	r.n--
	return r.n <= 0 && r.got == 0
}
