package serial

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader is a position in a body. Its methods expect that position at the
// first byte of what they read, and leave it behind the last.
type jsonReader struct {
	b            []byte
	i            int
	depth, items int
	lim          Limits
}

func (d *jsonReader) bad(what string) error { return bad("json: %s at byte %d", what, d.i) }

func (d *jsonReader) space() {
	for d.i < len(d.b) {
		switch d.b[d.i] {
		case ' ', '\t', '\n', '\r':
			d.i++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end.
func (d *jsonReader) peek() byte {
	if d.i < len(d.b) {
		return d.b[d.i]
	}
	return 0
}

// literal reads true, false or null.
func (d *jsonReader) literal(text string) error {
	if !bytes.HasPrefix(d.b[d.i:], []byte(text)) {
		return d.bad("no value")
	}
	d.i += len(text)
	return nil
}

// null reads a null, if there is one.
func (d *jsonReader) null() bool {
	if d.peek() != 'n' || d.literal("null") != nil {
		return false
	}
	return true
}

// enter begins an object or array.
func (d *jsonReader) enter() error {
	if d.depth++; d.depth > d.lim.MaxDepth {
		return d.bad("nested too deep")
	}
	d.i++
	d.space()
	return nil
}

// item counts one value.
func (d *jsonReader) item() error {
	if d.items++; d.items > d.lim.MaxItems {
		return d.bad("too many values")
	}
	return nil
}

// next reads what is between two elements: it says whether another follows.
// first is true in front of the first.
func (d *jsonReader) next(end byte, first bool) (bool, error) {
	d.space()
	switch c := d.peek(); {
	case c == end:
		d.i++
		d.depth--
		return false, nil
	case first:
	case c == ',':
		d.i++
		d.space()
	default:
		return false, d.bad("no comma")
	}
	return true, d.item()
}

// key reads a key and its colon. The bytes are valid until the next call.
func (d *jsonReader) key() ([]byte, error) {
	k, err := d.string()
	if err != nil {
		return nil, err
	}
	d.space()
	if d.peek() != ':' {
		return nil, d.bad("no colon")
	}
	d.i++
	d.space()
	return k, nil
}

// array calls each in front of every element, which it must read.
func (d *jsonReader) array(each func(i int) error) error {
	if d.peek() != '[' {
		return d.bad("no array")
	}
	if err := d.enter(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		more, err := d.next(']', i == 0)
		if err != nil || !more {
			return err
		}
		if err := each(i); err != nil {
			return err
		}
	}
}

// object calls each in front of every member's value, which it must read.
func (d *jsonReader) object(each func(key []byte) error) error {
	if d.peek() != '{' {
		return d.bad("no object")
	}
	if err := d.enter(); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := d.next('}', first)
		if err != nil || !more {
			return err
		}
		k, err := d.key()
		if err != nil {
			return err
		}
		if err := each(k); err != nil {
			return err
		}
	}
}

// skip reads any value.
func (d *jsonReader) skip() error {
	switch c := d.peek(); {
	case c == '{':
		return d.object(func([]byte) error { return d.skip() })
	case c == '[':
		return d.array(func(int) error { return d.skip() })
	case c == '"':
		_, err := d.string()
		return err
	case c == 't':
		return d.literal("true")
	case c == 'f':
		return d.literal("false")
	case c == 'n':
		return d.literal("null")
	default:
		_, _, err := d.number()
		return err
	}
}

// raw reads any value and returns its bytes, which are the body's.
func (d *jsonReader) raw() ([]byte, error) {
	start := d.i
	err := d.skip()
	return d.b[start:d.i], err
}

// number reads a number and says whether it has neither fraction nor exponent.
func (d *jsonReader) number() (text []byte, whole bool, err error) {
	start := d.i
	if d.peek() == '-' {
		d.i++
	}
	switch {
	case d.peek() == '0':
		d.i++
	case !d.digits():
		return nil, false, d.bad("no value")
	}
	whole = true
	if d.peek() == '.' {
		d.i++
		whole = false
		if !d.digits() {
			return nil, false, d.bad("no digit")
		}
	}
	if c := d.peek(); c == 'e' || c == 'E' {
		d.i++
		whole = false
		if c := d.peek(); c == '+' || c == '-' {
			d.i++
		}
		if !d.digits() {
			return nil, false, d.bad("no digit")
		}
	}
	return d.b[start:d.i], whole, nil
}

func (d *jsonReader) digits() bool {
	start := d.i
	for d.i < len(d.b) && d.b[d.i]-'0' <= 9 {
		d.i++
	}
	return d.i > start
}

// string reads a string. The bytes are the body's where it has no escapes.
func (d *jsonReader) string() ([]byte, error) {
	if d.peek() != '"' {
		return nil, d.bad("no string")
	}
	d.i++
	start := d.i
	for d.i < len(d.b) {
		switch c := d.b[d.i]; {
		case c == '"':
			s := d.b[start:d.i]
			d.i++
			return s, nil
		case c == '\\':
			return d.escaped(start)
		case c < ' ':
			return nil, d.bad("control character in a string")
		case c < utf8.RuneSelf:
			d.i++
		default:
			if err := d.rune(); err != nil {
				return nil, err
			}
		}
	}
	return nil, d.bad("string without an end")
}

func (d *jsonReader) rune() error {
	r, n := utf8.DecodeRune(d.b[d.i:])
	if r == utf8.RuneError && n == 1 {
		return d.bad("invalid UTF-8")
	}
	d.i += n
	return nil
}

// escaped goes on with a string whose bytes so far began at start.
func (d *jsonReader) escaped(start int) ([]byte, error) {
	s := append(make([]byte, 0, 2*(d.i-start)+16), d.b[start:d.i]...)
	for d.i < len(d.b) {
		switch c := d.b[d.i]; {
		case c == '"':
			d.i++
			return s, nil
		case c == '\\':
			d.i++
			r, err := d.escape()
			if err != nil {
				return nil, err
			}
			s = utf8.AppendRune(s, r)
		case c < ' ':
			return nil, d.bad("control character in a string")
		default:
			from := d.i
			if err := d.rune(); err != nil {
				return nil, err
			}
			s = append(s, d.b[from:d.i]...)
		}
	}
	return nil, d.bad("string without an end")
}

// escape reads what follows a backslash. Half a surrogate pair is no character.
func (d *jsonReader) escape() (rune, error) {
	c := d.peek()
	d.i++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
	default:
		d.i--
		return 0, d.bad("unknown escape")
	}
	r, err := d.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !bytes.HasPrefix(d.b[d.i:], []byte(`\u`)) {
		return 0, d.bad("half a surrogate pair")
	}
	d.i += 2
	second, err := d.hex()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, second); r == utf8.RuneError {
		return 0, d.bad("half a surrogate pair")
	}
	return r, nil
}

func (d *jsonReader) hex() (rune, error) {
	if len(d.b)-d.i < 4 {
		return 0, d.bad("short escape")
	}
	var r rune
	for _, c := range d.b[d.i : d.i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, d.bad("bad escape")
		}
		r = r<<4 | rune(c)
	}
	d.i += 4
	return r, nil
}
