package serial

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"sync"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
)

// MessagePack encodes and decodes with github.com/vmihailenco/msgpack, using the `json` tags of a
// struct. Before the library decodes a body, the body is checked against its target type: every
// length must fit into the remaining bytes, strings must be UTF-8, and the limits hold; a number
// that the type can't hold is an error, nil is accepted only for a pointer, slice, map or any, and
// an array must have the length of its type. A missing field stays zero.
func MessagePack(l Limits) Serializer { return msgpackSerializer{l.withDefaults()} }

type msgpackSerializer struct{ lim Limits }

func (msgpackSerializer) Name() string { return "msgpack" }

// msgpackWriter and msgpackReader are pooled with what they write to and read from.
type msgpackWriter struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

type msgpackReader struct {
	in  bytes.Reader
	dec *msgpack.Decoder
	of  *msgpackType // the type that was last asked for
}

var (
	msgpackWriters = sync.Pool{New: func() any {
		w := &msgpackWriter{}
		w.enc = msgpack.NewEncoder(&w.buf)
		w.enc.SetCustomStructTag("json")
		w.enc.UseCompactInts(true)
		return w
	}}
	msgpackReaders = sync.Pool{New: func() any {
		r := &msgpackReader{}
		r.dec = msgpack.NewDecoder(&r.in)
		r.dec.SetCustomStructTag("json")
		return r
	}}
)

func (msgpackSerializer) Append(dst []byte, v any) ([]byte, error) {
	w := msgpackWriters.Get().(*msgpackWriter)
	w.buf.Reset()
	if err := w.enc.Encode(v); err != nil {
		return dst, err // w may be spoilt
	}
	dst = append(dst, w.buf.Bytes()...)
	if w.buf.Cap() <= maxPooled {
		msgpackWriters.Put(w)
	}
	return dst, nil
}

func (s msgpackSerializer) Decode(body []byte, v any) error {
	if len(body) > s.lim.MaxSize {
		return bad("%d bytes", len(body))
	}
	r := msgpackReaders.Get().(*msgpackReader)
	if err := r.check(body, v, s.lim); err != nil {
		msgpackReaders.Put(r)
		return err
	}
	r.in.Reset(body)
	err := r.dec.Decode(v)
	r.in.Reset(nil)
	if err != nil {
		return bad("msgpack: %v", err) // r may be spoilt
	}
	msgpackReaders.Put(r)
	return nil
}

// check walks what is to be decoded into v.
func (r *msgpackReader) check(body []byte, v any, lim Limits) (err error) {
	w := msgpackWalk{b: body, lim: lim}
	if t := reflect.TypeOf(v); t != nil && t.Kind() == reflect.Pointer {
		if t = t.Elem(); r.of == nil || r.of.t != t {
			r.of = msgpackTypeOf(t)
		}
		err = w.fits(r.of, 0)
	} else {
		err = w.skip(1, 0)
	}
	if err == nil && w.i != len(body) {
		err = bad("msgpack: bytes behind the value")
	}
	return err
}

// msgpackWalk goes through a body. It allocates nothing.
type msgpackWalk struct {
	b     []byte
	i     int // what is in front of it has been looked at
	items int // values that have been
	lim   Limits
}

// next takes the head of the next value, which is depth containers deep, and its bytes if
// it is none itself. inside is how many values are to come in it: no more than bytes are left.
func (w *msgpackWalk) next(depth int) (own []byte, inside uint64, err error) {
	if w.items++; w.items > w.lim.MaxItems {
		return nil, 0, bad("msgpack: too many values")
	}
	var n int
	if b := w.b[w.i:]; len(b) > 0 && (b[0] <= 0x7f || b[0] >= 0xe0) {
		n = 1
	} else if n, inside, err = msgpackValue(b); err != nil {
		return nil, 0, err
	}
	own = w.b[w.i : w.i+n]
	w.i += n
	if inside > 0 {
		if inside > uint64(len(w.b)-w.i) {
			return nil, 0, bad("msgpack: a length is over what is left")
		}
		if depth >= w.lim.MaxDepth {
			return nil, 0, bad("msgpack: nested too deep")
		}
	}
	return own, inside, nil
}

// skip goes over n values, which are depth containers deep.
func (w *msgpackWalk) skip(n uint64, depth int) error {
	for ; n > 0; n-- {
		_, inside, err := w.next(depth)
		if err == nil && inside > 0 {
			err = w.skip(inside, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// msgpackValue returns the size of the value's own bytes, its string included,
// and how many values are inside it.
func msgpackValue(b []byte) (size int, inside uint64, err error) {
	if len(b) == 0 {
		return 0, 0, bad("msgpack: short")
	}
	c := b[0]
	switch {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3:
		return 1, 0, nil
	case c <= 0x8f:
		return 1, 2 * uint64(c&0x0f), nil
	case c <= 0x9f:
		return 1, uint64(c & 0x0f), nil
	case c <= 0xbf:
		return msgpackBytes(b, 0, uint64(c&0x1f), 0, true)
	case c == 0xc1:
		return 0, 0, bad("msgpack: byte c1")
	case c >= 0xca && c <= 0xd3: // floats and integers
		n := [...]int{4, 8, 1, 2, 4, 8, 1, 2, 4, 8}[c-0xca]
		if len(b) < 1+n {
			return 0, 0, bad("msgpack: short")
		}
		return 1 + n, 0, nil
	case c >= 0xd4 && c <= 0xd8: // fixext: a type byte and 1 to 16
		return msgpackBytes(b, 0, 1<<(c-0xd4), 1, false)
	}
	return msgpackLong(b, c)
}

// msgpackLong is msgpackValue for what carries a length.
func msgpackLong(b []byte, c byte) (int, uint64, error) {
	var width int
	switch c {
	case 0xc4, 0xc7, 0xd9:
		width = 1
	case 0xc5, 0xc8, 0xda, 0xdc, 0xde:
		width = 2
	default: // c6 c9 db dd df
		width = 4
	}
	if len(b) < 1+width {
		return 0, 0, bad("msgpack: short")
	}
	var word [4]byte
	copy(word[4-width:], b[1:1+width])
	n := uint64(binary.BigEndian.Uint32(word[:]))
	switch c {
	case 0xc7, 0xc8, 0xc9:
		return msgpackBytes(b, width, n, 1, false)
	case 0xdc, 0xdd:
		return 1 + width, n, nil
	case 0xde, 0xdf:
		return 1 + width, 2 * n, nil
	}
	return msgpackBytes(b, width, n, 0, c >= 0xd9 && c <= 0xdb)
}

// msgpackBytes: width bytes of length, extra bytes of type, n bytes.
func msgpackBytes(b []byte, width int, n uint64, extra int, text bool) (int, uint64, error) {
	head := 1 + width + extra
	if uint64(len(b)) < uint64(head)+n {
		return 0, 0, bad("msgpack: a length is over what is left")
	}
	end := head + int(n)
	if text && !utf8.Valid(b[head:end]) {
		return 0, 0, bad("msgpack: invalid UTF-8")
	}
	return end, 0, nil
}
