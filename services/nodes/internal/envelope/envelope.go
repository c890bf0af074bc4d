// Package envelope is the form of what nodes send each other: a header of fixed size, a
// key, a body. It only computes; what it reads may come from anybody.
//
//	b, err := envelope.Envelope{Kind: envelope.Group, Source: me, Number: 7, Key: "tea", Body: body}.Append(nil)
//	e, err := envelope.Parse(b)
//
// All integers are big-endian:
//
//	 0  u8       version, 1
//	 1  u8       kind
//	 2  u8       flags, by kind
//	 3  u8       hops left
//	 4  u64      source: the process that sends it
//	12  u64      number in its stream, from 1; 0: it is in none; of a Count, and of the
//	             Members that answer it, the question's
//	20  u64      session: of the receiver's, round and index; of a call, the caller's
//	28  u32      handle: Main and Sub of the frame; of a call, of the service; of a failure, its code
//	32  u32      milliseconds that are left of the deadline; 0: none
//	36  u64      when that is, in microseconds of the servers' clock; 0: not known
//	44  u64      epoch of a binding, fencing token of a room, or a count
//	52  16 bytes trace
//	68  u16      length of the key
//	70           key: a group, a user, a room; then the body, to the end
package envelope

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is what this package writes and reads.
const Version = 1

// HeaderLen is what stands in front of the key, in bytes.
const HeaderLen = 70

// MaxKey bounds a key, in bytes.
const MaxKey = 512

// Kind is what an envelope is.
type Kind uint8

// The kinds.
const (
	Send      Kind = iota + 1 // a frame for Session
	Group                     // a frame for the members of the group Key
	Broadcast                 // a frame for every session
	User                      // a frame for Session, which has the user Key by Epoch; it is answered
	Replaced                  // the user Key of Session is another's, by Epoch
	Members                   // the source has Epoch members of the group Key; of an answer, Session is where its stream of the group is
	Count                     // how many members of the group Key are there? The source has Epoch. Members are the answer
	Alive                     // the source lives; Body says how, Epoch where its stream of broadcasts is
	Call                      // a request to the service Handle; it is answered
	Room                      // a message to the room Key; it is answered
	Answer                    // to what was asked
	Who                       // which are the members of the group Key? It is answered, Epoch is how many they are
	Takeover                  // a session is to be taken over; Flags say which step, Session which offer, by an id of the source's. It is answered, but for TakeBack

	kinds
)

// Flags of an Answer.
const (
	OK        = iota // Body is the answer
	Failed           // the callee's error: Handle is the code, Body the text
	Refused          // it has not run here: Handle is the code, Body the text
	Elsewhere        // it has not run here, and what it is for is not here
)

// Flags of a Room.
const (
	Take  = 1 << iota // nobody is known to have the room: have it
	State             // Body is the room's state, by its last home
)

// Flags of a Takeover.
const (
	TakeBegin  = iota // Body is by what the session is found, and how far its client has come
	TakeMore          // the state from the byte Epoch on
	TakeCommit        // the session is the source's: the rest of what it takes along
	TakeBack          // nothing more is asked: the session stays, unless it has been committed
)

// Envelope is one message.
type Envelope struct {
	Kind    Kind
	Flags   uint8
	Hops    uint8
	Source  uint64
	Number  uint64
	Session uint64
	Handle  uint32
	Left    uint32
	Expires uint64
	Epoch   uint64
	Trace   [16]byte
	Key     string
	Body    []byte
}

// ErrBad: the bytes are no envelope.
var ErrBad = errors.New("envelope: bad message")

// Append adds e's bytes to dst and returns the longer slice. An error: the key is too long.
func (e Envelope) Append(dst []byte) ([]byte, error) {
	if len(e.Key) > MaxKey {
		return dst, fmt.Errorf("envelope: a key of %d bytes: at most %d", len(e.Key), MaxKey)
	}
	dst = append(dst, Version, byte(e.Kind), e.Flags, e.Hops)
	dst = binary.BigEndian.AppendUint64(dst, e.Source)
	dst = binary.BigEndian.AppendUint64(dst, e.Number)
	dst = binary.BigEndian.AppendUint64(dst, e.Session)
	dst = binary.BigEndian.AppendUint32(dst, e.Handle)
	dst = binary.BigEndian.AppendUint32(dst, e.Left)
	dst = binary.BigEndian.AppendUint64(dst, e.Expires)
	dst = binary.BigEndian.AppendUint64(dst, e.Epoch)
	dst = append(dst, e.Trace[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(e.Key)))
	dst = append(dst, e.Key...)
	return append(dst, e.Body...), nil
}

// Parse reads an envelope. Its Body is a part of b. Errors are ErrBad.
func Parse(b []byte) (Envelope, error) {
	switch {
	case len(b) < HeaderLen:
		return Envelope{}, fmt.Errorf("%w: %d bytes", ErrBad, len(b))
	case b[0] != Version:
		return Envelope{}, fmt.Errorf("%w: version %d, want %d", ErrBad, b[0], Version)
	case b[1] == 0 || Kind(b[1]) >= kinds:
		return Envelope{}, fmt.Errorf("%w: kind %d", ErrBad, b[1])
	}
	n := int(binary.BigEndian.Uint16(b[68:]))
	if n > MaxKey || n > len(b)-HeaderLen {
		return Envelope{}, fmt.Errorf("%w: a key of %d bytes in %d", ErrBad, n, len(b))
	}
	e := Envelope{
		Kind: Kind(b[1]), Flags: b[2], Hops: b[3],
		Source: binary.BigEndian.Uint64(b[4:]), Number: binary.BigEndian.Uint64(b[12:]), Session: binary.BigEndian.Uint64(b[20:]),
		Handle: binary.BigEndian.Uint32(b[28:]), Left: binary.BigEndian.Uint32(b[32:]),
		Expires: binary.BigEndian.Uint64(b[36:]), Epoch: binary.BigEndian.Uint64(b[44:]),
		Key: string(b[HeaderLen : HeaderLen+n]), Body: b[HeaderLen+n:],
	}
	copy(e.Trace[:], b[52:])
	return e, nil
}
