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

// msgpackType is what fits has to know of a type. It does not change.
type msgpackType struct {
	t      reflect.Type
	kind   reflect.Kind
	bits   int // of a number
	time   bool
	self   bool           // it decodes itself
	key    *msgpackType   // of a map
	elem   *msgpackType   // of a pointer, slice, array or map
	fields []msgpackField // of a struct, in its order
	byName map[string]*msgpackType
}

type msgpackField struct {
	name string // in a body
	is   *msgpackType
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
	if m.time = t == timeType; m.time {
		return m
	}
	if m.self = decodesItself(t); m.self {
		return m
	}
	switch k := m.kind; {
	case k == reflect.Map:
		m.key, m.elem = newMsgpackType(t.Key(), found), newMsgpackType(t.Elem(), found)
	case k == reflect.Pointer || k == reflect.Slice || k == reflect.Array:
		m.elem = newMsgpackType(t.Elem(), found)
	case k == reflect.Struct:
		m.byName = make(map[string]*msgpackType)
		names, types := fieldTypes(t)
		for _, name := range names {
			f := newMsgpackType(types[name], found)
			m.fields, m.byName[name] = append(m.fields, msgpackField{name, f}), f
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

// fits takes the next value, which is depth containers deep, beside the type that it will be
// decoded into. The library converts numbers without asking whether they fit.
func (w *msgpackWalk) fits(m *msgpackType, depth int) error {
	for m.kind == reflect.Pointer && !m.self {
		if w.i < len(w.b) && w.b[w.i] == 0xc0 {
			return w.skip(1, depth)
		}
		m = m.elem
	}
	own, inside, err := w.next(depth)
	if err != nil {
		return err
	}
	c, k := own[0], m.kind
	switch {
	case m.self:
	case m.time:
		return timeFits(c, own)
	case k >= reflect.Int && k <= reflect.Uintptr:
		if c > 0x7f && !intFits(own, k, m.bits) {
			return bad("msgpack: number does not fit %v", m.t)
		}
		return nil
	case k == reflect.Struct || k == reflect.Array || k == reflect.Slice || k == reflect.Map:
		if c == 0xc0 && (k == reflect.Struct || k == reflect.Array) {
			return bad("msgpack: nil for %v", m.t)
		}
		return w.inside(m, c, inside, depth+1)
	case k == reflect.Bool:
		if c != 0xc2 && c != 0xc3 {
			return bad("msgpack: no bool")
		}
	case k == reflect.String:
		if c == 0xc0 {
			return bad("msgpack: nil for a string")
		}
	case k == reflect.Float32 || k == reflect.Float64:
		if !floatFits(own, m.bits) {
			return bad("msgpack: number does not fit %v", m.t)
		}
	}
	return w.skip(inside, depth+1)
}

// inside takes the n values in a slice, array, map or struct, whose first byte is c.
func (w *msgpackWalk) inside(m *msgpackType, c byte, n uint64, depth int) (err error) {
	isMap := c&0xf0 == 0x80 || c == 0xde || c == 0xdf
	isArray := c&0xf0 == 0x90 || c == 0xdc || c == 0xdd
	switch {
	case isMap && m.kind == reflect.Struct:
		return w.members(m, n, depth)
	case isArray && m.kind == reflect.Struct:
		return bad("msgpack: an array for %v", m.t)
	case isArray && m.kind == reflect.Array && n != uint64(m.t.Len()):
		return bad("msgpack: %d values for %v", n, m.t)
	case isArray && (m.kind == reflect.Slice || m.kind == reflect.Array):
		for ; n > 0 && err == nil; n-- {
			err = w.fits(m.elem, depth)
		}
		return err
	case isMap && m.kind == reflect.Map:
		for ; n > 0 && err == nil; n -= 2 {
			if err = w.fits(m.key, depth); err == nil {
				err = w.fits(m.elem, depth)
			}
		}
		return err
	}
	return w.skip(n, depth) // the library refuses it, or it is bytes
}

// members takes the n names and values of a struct. Most bodies have them in its order.
func (w *msgpackWalk) members(m *msgpackType, n uint64, depth int) error {
	likely := 0
	for ; n > 0; n -= 2 {
		var f *msgpackType
		if likely < len(m.fields) && w.isName(m.fields[likely].name) {
			f = m.fields[likely].is
		} else {
			own, inside, err := w.next(depth)
			if err == nil && inside > 0 {
				err = w.skip(inside, depth+1)
			}
			if err != nil {
				return err
			}
			f = m.byName[string(msgpackText(own))]
		}
		likely++
		var err error
		if f != nil {
			err = w.fits(f, depth)
		} else {
			err = w.skip(1, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isName takes the next value if it is a short string that is name.
func (w *msgpackWalk) isName(name string) bool {
	b, n := w.b[w.i:], len(name)
	if n >= 32 || len(b) <= n || b[0] != 0xa0|byte(n) || string(b[1:1+n]) != name || w.items >= w.lim.MaxItems {
		return false
	}
	w.items++
	w.i += 1 + n
	return true
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

// fieldTypes are the fields of a struct by their names in a body, and these in the struct's
// order, those of embedded structs included, as the library sees them: a msgpack tag, else a
// json tag, else the name.
func fieldTypes(t reflect.Type) (names []string, m map[string]reflect.Type) {
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
		d, ok := depth[name]
		if !ok {
			names = append(names, name)
		}
		if !ok || len(f.Index) < d {
			m[name], depth[name] = f.Type, len(f.Index)
		}
	}
	return names, m
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
