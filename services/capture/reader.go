package capture

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"millrace/codec"
)

// Kind is what a Record is.
type Kind uint8

const (
	Opened     Kind = iota // a session began
	FromPeer               // what was read of it
	FromServer             // what was written to it
	Closed                 // its connection ended
)

// Record is one entry of a file.
type Record struct {
	At      time.Time
	Kind    Kind
	Session int    // numbers the sessions of a file in the order in which they are met, from 0
	Bytes   []byte // valid until the next call of Next
	Offset  int64  // of Bytes in the file
	Whole   bool   // Bytes begin with a frame
	Gap     bool   // something was left out in front of Bytes
	Peer    bool   // Closed: it was the peer's FIN, or reset
	Reset   bool   // Closed: it was a reset
	Comment string // which session; why it was closed
}

// ErrFormat: the file is no recording, or is damaged. What was read before is good.
var ErrFormat = errors.New("capture: not a recording")

// Reader reads a recording. It is used by one goroutine.
type Reader struct {
	r       *bufio.Reader
	base    int64 // offset of the file's first byte
	at      int64 // offset of the next byte
	buf     []byte
	order   binary.ByteOrder
	form    form
	codec   *codec.Codec
	scale   uint64 // nanoseconds of the time stamps' unit
	dropped uint64 // of the run that the file is of, as far as it has said by now
	earlier uint64 // of the runs before

	streams map[tuple]*readStream
	n       int // sessions met
}

type tuple struct{ from, to netip.AddrPort }

// readStream is a session's way through the file.
type readStream struct {
	number int
	seq    [2]uint32
	known  [2]bool // seq is where that direction goes on
}

const (
	maxBlock    = 1 << 20 // bytes of a block
	maxSessions = 1 << 22 // sessions of a file
)

// NewReader begins to read a file.
func NewReader(r io.Reader) (*Reader, error) {
	x := &Reader{streams: map[tuple]*readStream{}}
	if err := x.begin(r); err != nil {
		return nil, err
	}
	return x, nil
}

// begin begins to read a file, whose first byte has the offset x.at.
func (x *Reader) begin(r io.Reader) error {
	x.r, x.base, x.order = bufio.NewReaderSize(r, 64<<10), x.at, nil
	typ, body, err := x.block()
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: it is empty", ErrFormat)
	case err != nil:
		return err
	case typ != blockSection:
		return x.bad("it does not begin as pcapng")
	}
	if err := x.section(body); err != nil {
		return err
	}
	if typ, body, err = x.block(); err != nil || typ != blockInterface {
		return x.bad("no interface")
	}
	return x.iface(body)
}

// goOn reads another file behind the one that has been read, where its offsets begin at base.
// Sessions that have not ended go on in it if it is of the same run of a server.
func (x *Reader) goOn(r io.Reader, base int64) error {
	before := x.form
	x.at, x.form = base, form{}
	if err := x.begin(r); err != nil {
		return err
	}
	run := x.form.Run
	if x.form.Run = before.Run; !reflect.DeepEqual(x.form, before) {
		return fmt.Errorf("%w: its framing differs from that of the previous file", ErrFormat)
	}
	if x.form.Run = run; run != before.Run {
		x.earlier, x.dropped = x.earlier+x.dropped, 0
		clear(x.streams)
	}
	return nil
}

func (x *Reader) bad(why string) error {
	return fmt.Errorf("%w: %s, at byte %d", ErrFormat, why, x.at-x.base)
}

// Codec is that of the file's frames.
func (x *Reader) Codec() *codec.Codec { return x.codec }

// Dropped is how many records the server left out, as far as the file has said so by now.
func (x *Reader) Dropped() uint64 { return x.earlier + x.dropped }

// Sessions is how many were met by now.
func (x *Reader) Sessions() int { return x.n }

// block reads one block, whose body is valid until the next call. io.EOF: there is none;
// io.ErrUnexpectedEOF: the file ends within it.
func (x *Reader) block() (typ uint32, body []byte, err error) {
	var head [12]byte
	n, err := io.ReadFull(x.r, head[:8])
	if err != nil {
		if n > 0 {
			return 0, nil, io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	if le.Uint32(head[:]) == blockSection { // the same in either order; what follows says which it is
		magic, err := x.r.Peek(4)
		if err != nil {
			return 0, nil, io.ErrUnexpectedEOF
		}
		switch {
		case le.Uint32(magic) == byteOrderMagic:
			x.order = le
		case binary.BigEndian.Uint32(magic) == byteOrderMagic:
			x.order = binary.BigEndian
		default:
			return 0, nil, x.bad("neither byte order")
		}
	}
	if x.order == nil {
		return 0, nil, x.bad("it does not begin as pcapng")
	}
	typ = x.order.Uint32(head[:])
	size := x.order.Uint32(head[4:])
	if size < 12 || size%4 != 0 || size > maxBlock {
		return 0, nil, x.bad(fmt.Sprintf("a block of %d bytes", size))
	}
	if rest := int(size) - 8; cap(x.buf) < rest {
		x.buf = make([]byte, rest)
	}
	b := x.buf[:size-8]
	if _, err := io.ReadFull(x.r, b); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	if x.order.Uint32(b[len(b)-4:]) != size {
		return 0, nil, x.bad("a block whose two lengths differ")
	}
	x.at += int64(size)
	return typ, b[:len(b)-4], nil
}

// options calls fn for each option in b.
func (x *Reader) options(b []byte, fn func(code uint16, value []byte)) error {
	for len(b) >= 4 {
		code, n := x.order.Uint16(b), int(x.order.Uint16(b[2:]))
		if code == optEnd {
			return nil
		}
		b = b[4:]
		if n > len(b) {
			return x.bad("an option longer than its block")
		}
		fn(code, b[:n])
		b = b[min(n+(4-n%4)%4, len(b)):]
	}
	return nil
}

func (x *Reader) section(b []byte) error {
	if len(b) < 16 || x.order.Uint16(b[4:]) != 1 {
		return x.bad("another version of pcapng")
	}
	ours := false
	err := x.options(b[16:], func(code uint16, value []byte) {
		ours = ours || code == optUserAppl && string(value) == application
	})
	if err == nil && !ours {
		err = fmt.Errorf("%w: it was not written by millrace", ErrFormat)
	}
	return err
}

func (x *Reader) iface(b []byte) error {
	if len(b) < 8 || x.order.Uint16(b) != linkRaw {
		return x.bad("packets that are not raw IP")
	}
	described := errors.New("no description")
	x.scale = 1000
	err := x.options(b[8:], func(code uint16, value []byte) {
		switch code {
		case optIfDescr:
			described = json.Unmarshal(value, &x.form)
		case optIfTsresol:
			x.scale = 0
			if len(value) == 1 && value[0] <= 9 {
				x.scale = 1
				for range 9 - value[0] {
					x.scale *= 10
				}
			}
		}
	})
	switch {
	case err != nil:
		return err
	case described != nil:
		return x.bad("it does not say how its frames are told apart")
	case x.scale == 0:
		return x.bad("time stamps of an unknown unit")
	case x.form.Version != 1:
		return fmt.Errorf("%w: version %d, and this reads 1", ErrFormat, x.form.Version)
	}
	if x.codec, err = x.form.codec(); err != nil {
		return fmt.Errorf("%w: its frames: %w", ErrFormat, err)
	}
	return nil
}

// Next returns the next record. io.EOF at the end; io.ErrUnexpectedEOF where the file ends
// within a block, as one does whose writer was killed; else an error that is ErrFormat.
func (x *Reader) Next() (Record, error) {
	for {
		typ, body, err := x.block()
		if err != nil {
			return Record{}, err
		}
		switch typ {
		case blockPacket:
			return x.packet(body)
		case blockStats:
			if err := x.stats(body); err != nil {
				return Record{}, err
			}
		case blockSection, blockInterface:
			return Record{}, x.bad("a second section or interface")
		}
	}
}

func (x *Reader) stats(b []byte) error {
	if len(b) < 12 {
		return x.bad("statistics that are too short")
	}
	return x.options(b[12:], func(code uint16, value []byte) {
		if code == optIfDrop && len(value) == 8 {
			x.dropped = max(x.dropped, x.order.Uint64(value))
		}
	})
}

const packetHead = 20 // of a packet's block, in front of the packet

func (x *Reader) packet(b []byte) (Record, error) {
	var rec Record
	if len(b) < packetHead || x.order.Uint32(b) != 0 {
		return rec, x.bad("a packet without its head")
	}
	n := int64(x.order.Uint32(b[12:]))
	if n+packetHead > int64(len(b)) || x.order.Uint32(b[16:]) != uint32(n) {
		return rec, x.bad("a packet longer than its block, or cut")
	}
	ts := uint64(x.order.Uint32(b[4:]))<<32 | uint64(x.order.Uint32(b[8:]))
	if ts > (1<<63-1)/x.scale {
		return rec, x.bad("a time that can't be")
	}
	rec.At = time.Unix(0, int64(ts*x.scale))
	way := uint32(0)
	rest := b[min(packetHead+(int(n)+3)&^3, len(b)):]
	err := x.options(rest, func(code uint16, value []byte) {
		switch {
		case code == optFlags && len(value) == 4:
			way = x.order.Uint32(value) & 3
		case code == optComment:
			rec.Comment = strings.ToValidUTF8(string(value), "?")
		}
	})
	if err != nil {
		return rec, err
	}
	p, err := parsePacket(b[packetHead : packetHead+n])
	if err != nil || way != 1 && way != 2 {
		return rec, x.bad("a packet that is none of a session's")
	}
	rec.Offset = x.at - 4 - int64(len(b)) + int64(packetHead+n) - int64(len(p.payload))
	return x.record(rec, p, way == 1)
}

// record finds the session of a packet.
func (x *Reader) record(rec Record, p packet, fromPeer bool) (Record, error) {
	key, by := tuple{p.from, p.to}, FromPeer
	if !fromPeer {
		key, by = tuple{p.to, p.from}, FromServer
	}
	st := x.streams[key]
	if st == nil || p.flags&flagSYN != 0 {
		if x.n >= maxSessions {
			return rec, x.bad("too many sessions")
		}
		st = &readStream{number: x.n}
		x.streams[key] = st
		x.n++
	}
	rec.Session, rec.Bytes, rec.Kind = st.number, p.payload, by
	rec.Whole = p.flags&flagPSH != 0
	way := by - FromPeer
	switch {
	case p.flags&flagSYN != 0:
		rec.Kind = Opened
		st.seq, st.known = [2]uint32{p.seq + 1, 1}, [2]bool{true, true}
		return rec, nil
	case p.flags&(flagFIN|flagRST) != 0:
		rec.Kind, rec.Peer, rec.Reset = Closed, fromPeer, p.flags&flagRST != 0
		delete(x.streams, key)
	}
	rec.Gap = !st.known[way] || st.seq[way] != p.seq
	st.seq[way], st.known[way] = p.seq+uint32(len(p.payload)), true
	return rec, nil
}
