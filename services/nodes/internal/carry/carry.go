// Package carry encodes and decodes what moves with a session from node to node: first a State, and
// at the commit a Tail. It does no I/O. Its input may be malformed or hostile.
//
// All integers are big-endian; bytes and texts follow their length in 32 bits, lists the
// number of their entries in 32 bits.
//
//	State  u8 version 1, u64 session, u64 received, u64 first, u64 most, u64 accepted (microseconds
//	       since 1970), frames, state, groups
//	Tail   u8 version 1, frames, u32 handle and u32 sequence number of the last bind, users,
//	       streams: a name and a list of u64 process, u64 number
package carry

import (
	"encoding/binary"
	"errors"
)

const version = 1

// ErrBad: the bytes are no valid State or Tail.
var ErrBad = errors.New("carry: bad state of a session")

// State is the state of a suspended session.
type State struct {
	Session  uint64   // its engine.ID on the old node
	Received uint64   // how many of the client's frames have been handled
	First    uint64   // the number of the first of Frames
	Most     uint64   // the number after the last frame that the client may have received
	Accepted int64    // microseconds since 1970
	Frames   []byte   // whole frames
	User     []byte   // the handler's state (MarshalSession)
	Groups   []string // sorted, without duplicates
}

// Tail is what was sent to the session after its State, and what is known at the commit.
type Tail struct {
	Frames  []byte // whole frames
	Handle  uint32 // of the request that bound a user last
	Seq     uint32
	Users   []string
	Streams []Stream
}

// Stream says up to which numbers the session has been given the messages of a group, or broadcasts, of
// each process.
type Stream struct {
	Name string // "": broadcasts
	At   map[uint64]uint64
}

// Append appends the encoded State to dst and returns the longer slice.
func (s State) Append(dst []byte) []byte {
	dst = append(dst, version)
	for _, n := range []uint64{s.Session, s.Received, s.First, s.Most, uint64(s.Accepted)} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	dst = appendBytes(appendBytes(dst, s.Frames), s.User)
	return appendTexts(dst, s.Groups)
}

// ParseState decodes a State. Its byte slices are parts of b. The error is ErrBad, also if the groups
// are not sorted or not unique.
func ParseState(b []byte) (State, error) {
	r := reader{b: b}
	r.version()
	s := State{Session: r.u64(), Received: r.u64(), First: r.u64(), Most: r.u64(), Accepted: int64(r.u64())}
	s.Frames, s.User, s.Groups = r.bytes(), r.bytes(), r.texts()
	for i := 1; i < len(s.Groups); i++ {
		r.bad = r.bad || s.Groups[i-1] >= s.Groups[i]
	}
	return s, r.end()
}

// Append appends the encoded Tail to dst and returns the longer slice.
func (t Tail) Append(dst []byte) []byte {
	dst = appendBytes(append(dst, version), t.Frames)
	dst = binary.BigEndian.AppendUint32(dst, t.Handle)
	dst = binary.BigEndian.AppendUint32(dst, t.Seq)
	dst = appendTexts(dst, t.Users)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(t.Streams)))
	for _, x := range t.Streams {
		dst = appendBytes(dst, []byte(x.Name))
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(x.At)))
		for process, number := range x.At {
			dst = binary.BigEndian.AppendUint64(dst, process)
			dst = binary.BigEndian.AppendUint64(dst, number)
		}
	}
	return dst
}

// ParseTail decodes a Tail. Its byte slices are parts of b. The error is ErrBad.
func ParseTail(b []byte) (Tail, error) {
	r := reader{b: b}
	r.version()
	t := Tail{Frames: r.bytes(), Handle: r.u32(), Seq: r.u32(), Users: r.texts()}
	for range r.count(8) {
		x := Stream{Name: string(r.bytes()), At: map[uint64]uint64{}}
		for range r.count(16) {
			process := r.u64()
			x.At[process] = r.u64()
		}
		t.Streams = append(t.Streams, x)
	}
	return t, r.end()
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

func appendTexts(dst []byte, list []string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(list)))
	for _, s := range list {
		dst = appendBytes(dst, []byte(s))
	}
	return dst
}

// reader decodes b from its start. After the first error it returns zeros, and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) version() {
	if b := r.take(1); b != nil && b[0] != version {
		r.bad = true
	}
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) bytes() []byte {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

// count returns the number of entries that follow, of at least size bytes each.
func (r *reader) count(size int) int {
	n := r.u32()
	if uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) texts() (list []string) {
	for range r.count(4) {
		list = append(list, string(r.bytes()))
	}
	return list
}

func (r *reader) end() error {
	if r.bad || len(r.b) > 0 {
		return ErrBad
	}
	return nil
}
