package serial

import (
	"encoding"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

var (
	timeType   = reflect.TypeFor[time.Time]()
	ownDecoder = []reflect.Type{
		reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](),
		reflect.TypeFor[encoding.BinaryUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	}
	msgpackTypes sync.Map // reflect.Type to *msgpackType
)

// msgpackType is what msgpackFits has to know of a type. It does not change.
type msgpackType struct {
	t      reflect.Type
	kind   reflect.Kind
	bits   int // of a number
	self   bool
	key    *msgpackType            // of a map
	elem   *msgpackType            // of a pointer, slice, array or map
	fields map[string]*msgpackType // of a struct, by their names in a body
}

// msgpackTypeOf looks t up, or finds out.
func msgpackTypeOf(t reflect.Type) *msgpackType {
	if m, ok := msgpackTypes.Load(t); ok {
		return m.(*msgpackType)
	}
	found := map[reflect.Type]*msgpackType{} // a type may hold itself
	m := newMsgpackType(t, found)
	for t, m := range found {
		msgpackTypes.Store(t, m)
	}
	return m
}

func newMsgpackType(t reflect.Type, found map[reflect.Type]*msgpackType) *msgpackType {
	if m := found[t]; m != nil {
		return m
	}
	m := &msgpackType{t: t, kind: t.Kind()}
	found[t] = m
	if m.self = decodesItself(t); m.self || t == timeType {
		return m
	}
	switch k := m.kind; {
	case k == reflect.Map:
		m.key, m.elem = newMsgpackType(t.Key(), found), newMsgpackType(t.Elem(), found)
	case k == reflect.Pointer || k == reflect.Slice || k == reflect.Array:
		m.elem = newMsgpackType(t.Elem(), found)
	case k == reflect.Struct:
		m.fields = make(map[string]*msgpackType)
		for name, ft := range fieldTypes(t) {
			m.fields[name] = newMsgpackType(ft, found)
		}
	case k >= reflect.Int && k <= reflect.Float64:
		m.bits = t.Bits()
	}
	return m
}

func decodesItself(t reflect.Type) bool {
	for _, i := range ownDecoder {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

// msgpackFits walks the value at the front of b beside the type that it will be decoded
// into and returns what is behind it. The library converts numbers without asking whether
// they fit. b has passed checkMsgpack: its lengths are right and it is not too deep.
func msgpackFits(b []byte, m *msgpackType) ([]byte, error) {
	size, inside, err := msgpackValue(b)
	if err != nil {
		return nil, err
	}
	c, own, rest := b[0], b[:size], b[size:]
	switch {
	case m.t == timeType:
		return rest, timeFits(c, own)
	case m.self:
		return skipMsgpack(rest, inside)
	}
	switch k := m.kind; k {
	case reflect.Pointer:
		if c == 0xc0 {
			return rest, nil
		}
		return msgpackFits(b, m.elem)
	case reflect.Interface:
		return skipMsgpack(rest, inside)
	case reflect.Slice, reflect.Map:
		if c == 0xc0 {
			return rest, nil
		}
		return insideFits(rest, m, c, inside)
	case reflect.Array, reflect.Struct:
		if c == 0xc0 {
			return nil, bad("msgpack: nil for %v", m.t)
		}
		return insideFits(rest, m, c, inside)
	case reflect.Bool:
		if c != 0xc2 && c != 0xc3 {
			return nil, bad("msgpack: no bool")
		}
	case reflect.String:
		if c == 0xc0 {
			return nil, bad("msgpack: nil for a string")
		}
	case reflect.Float32, reflect.Float64:
		if !floatFits(own, m.bits) {
			return nil, bad("msgpack: number does not fit %v", m.t)
		}
	default:
		if k >= reflect.Int && k <= reflect.Uintptr && !intFits(own, k, m.bits) {
			return nil, bad("msgpack: number does not fit %v", m.t)
		}
	}
	return skipMsgpack(rest, inside)
}

// skipMsgpack returns what is behind n values.
func skipMsgpack(b []byte, n uint64) ([]byte, error) {
	for ; n > 0; n-- {
		size, inside, err := msgpackValue(b)
		if err != nil {
			return nil, err
		}
		b = b[size:]
		n += inside
	}
	return b, nil
}

// insideFits walks the n values in a slice, array, map or struct.
func insideFits(b []byte, m *msgpackType, c byte, n uint64) ([]byte, error) {
	isMap := c&0xf0 == 0x80 || c == 0xde || c == 0xdf
	isArray := c&0xf0 == 0x90 || c == 0xdc || c == 0xdd
	var err error
	switch {
	case m.kind == reflect.Array && isArray && n != uint64(m.t.Len()):
		return nil, bad("msgpack: %d values for %v", n, m.t)
	case isArray && (m.kind == reflect.Slice || m.kind == reflect.Array):
		for ; n > 0 && err == nil; n-- {
			b, err = msgpackFits(b, m.elem)
		}
		return b, err
	case isMap && m.kind == reflect.Map:
		for ; n > 0 && err == nil; n -= 2 {
			if b, err = msgpackFits(b, m.key); err == nil {
				b, err = msgpackFits(b, m.elem)
			}
		}
		return b, err
	case isMap && m.kind == reflect.Struct:
		return fieldsFit(b, m.fields, n)
	case isArray && m.kind == reflect.Struct:
		return nil, bad("msgpack: an array for %v", m.t)
	}
	return skipMsgpack(b, n) // the library refuses it, or it is bytes
}

func fieldsFit(b []byte, fields map[string]*msgpackType, n uint64) ([]byte, error) {
	for ; n > 0; n -= 2 {
		size, inside, err := msgpackValue(b)
		if err != nil {
			return nil, err
		}
		name := msgpackText(b[:size])
		if b, err = skipMsgpack(b[size:], inside); err != nil {
			return nil, err
		}
		if f := fields[string(name)]; f != nil {
			b, err = msgpackFits(b, f)
		} else {
			b, err = skipMsgpack(b, 1)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// msgpackText is a string's or bytes' own bytes.
func msgpackText(b []byte) []byte {
	switch c := b[0]; {
	case c >= 0xa0 && c <= 0xbf:
		return b[1:]
	case c == 0xd9 || c == 0xc4:
		return b[2:]
	case c == 0xda || c == 0xc5:
		return b[3:]
	case c == 0xdb || c == 0xc6:
		return b[5:]
	}
	return nil
}

// fieldTypes are the fields of a struct by their names in a body, those of embedded
// structs included, as the library sees them: a msgpack tag, else a json tag, else the name.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	m, depth := map[string]reflect.Type{}, map[string]int{}
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("msgpack")
		if tag == "" {
			tag = f.Tag.Get("json")
		}
		name, _, _ := strings.Cut(tag, ",")
		if tag == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if d, ok := depth[name]; !ok || len(f.Index) < d {
			m[name], depth[name] = f.Type, len(f.Index)
		}
	}
	return m
}

// msgpackInt reads an integer: its bits, and whether they are those of a negative one.
func msgpackInt(b []byte) (n uint64, negative, ok bool) {
	c := b[0]
	switch {
	case c <= 0x7f:
		return uint64(c), false, true
	case c >= 0xe0:
		return uint64(int64(int8(c))), true, true
	case c < 0xcc || c > 0xd3:
		return 0, false, false
	}
	width := len(b) - 1
	var word [8]byte
	copy(word[8-width:], b[1:])
	n = binary.BigEndian.Uint64(word[:])
	if c <= 0xcf {
		return n, false, true
	}
	shift := 64 - 8*width
	signed := int64(n<<shift) >> shift
	return uint64(signed), signed < 0, true
}

func intFits(b []byte, k reflect.Kind, bits int) bool {
	n, negative, ok := msgpackInt(b)
	switch {
	case !ok:
		return false
	case k >= reflect.Uint:
		return !negative && n>>(bits-1)>>1 == 0
	case negative:
		return int64(n) >= -1<<(bits-1)
	default:
		return n>>(bits-1) == 0
	}
}

// floatFits: a float of the type's size or one that does not overflow it, or an integer
// that it holds without loss.
func floatFits(b []byte, bits int) bool {
	switch b[0] {
	case 0xca:
		return true
	case 0xcb:
		f := math.Float64frombits(binary.BigEndian.Uint64(b[1:]))
		return bits == 64 || math.IsInf(f, 0) || math.IsNaN(f) || !math.IsInf(float64(float32(f)), 0)
	}
	n, negative, ok := msgpackInt(b)
	if !ok {
		return false
	}
	if negative {
		n = -n
	}
	for n != 0 && n&1 == 0 {
		n >>= 1
	}
	return bits == 64 && n>>53 == 0 || bits == 32 && n>>24 == 0
}

// timeFits: a timestamp of one of the three sizes with less than a second of nanoseconds,
// or the library's own text.
func timeFits(c byte, b []byte) error {
	var nanos uint32
	switch {
	case c >= 0xa0 && c <= 0xbf || c >= 0xd9 && c <= 0xdb:
		return nil
	case c == 0xd6 && b[1] == 0xff:
	case c == 0xd7 && b[1] == 0xff:
		nanos = binary.BigEndian.Uint32(b[2:]) >> 2
	case c == 0xc7 && b[1] == 12 && b[2] == 0xff:
		nanos = binary.BigEndian.Uint32(b[3:])
	default:
		return bad("msgpack: no timestamp")
	}
	if nanos > 999_999_999 {
		return bad("msgpack: a timestamp of %d nanoseconds", nanos)
	}
	return nil
}
