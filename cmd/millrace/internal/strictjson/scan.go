package strictjson

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner walks over JSON text (RFC 8259) and allocates nothing except errors and keys with escapes.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) fail(why string) error {
	return &Error{Why: fmt.Sprintf("not JSON at byte %d: %s", s.i, why)}
}

// peek is the next byte, 0 at the end (which is no byte of JSON text).
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) end() error {
	if s.space(); s.i < len(s.b) {
		return s.fail("more follows the value")
	}
	return nil
}

// value passes one value. depth is what it would nest at, were it an object or array.
func (s *scanner) value(depth int) error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(depth, nil)
	case c == '[':
		return s.array(depth)
	case c == '"':
		return s.str()
	case c == '-' || digit(c):
		return s.num()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case s.i >= len(s.b):
		return s.fail("it ends early")
	default:
		return s.fail("a value is missing")
	}
}

func (s *scanner) word(w string) error {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return s.fail("a value is missing")
	}
	s.i += len(w)
	return nil
}

func (s *scanner) open(depth int) error {
	if depth > MaxDepth {
		return &Error{Why: fmt.Sprintf("nests deeper than %d", MaxDepth)}
	}
	s.i++
	s.space()
	return nil
}

// object passes an object and notes the values of those of its keys that are wanted.
func (s *scanner) object(depth int, wanted []Field) error {
	if err := s.open(depth); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.i++
		return nil
	}
	for {
		if err := s.member(depth, wanted); err != nil {
			return err
		}
		if done, err := s.next('}'); done || err != nil {
			return err
		}
		s.space()
	}
}

func (s *scanner) member(depth int, wanted []Field) error {
	if s.peek() != '"' {
		return s.fail("a key is missing")
	}
	from := s.i
	if err := s.str(); err != nil {
		return err
	}
	key := s.b[from:s.i]
	s.space()
	if s.peek() != ':' {
		return s.fail("a colon is missing")
	}
	s.i++
	s.space()
	from = s.i
	if err := s.value(depth + 1); err != nil {
		return err
	}
	found(wanted, key, from, s.i)
	return nil
}

func (s *scanner) array(depth int) error {
	if err := s.open(depth); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.i++
		return nil
	}
	for {
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if done, err := s.next(']'); done || err != nil {
			return err
		}
		s.space()
	}
}

// next passes a comma (more follows) or the closing byte (done).
func (s *scanner) next(closing byte) (done bool, err error) {
	s.space()
	switch s.peek() {
	case closing:
		s.i++
		return true, nil
	case ',':
		s.i++
		return false, nil
	default:
		return false, s.fail("a comma or " + string(closing) + " is missing")
	}
}

// num passes a number: -? (0 | 1-9 digits) fraction? exponent?
func (s *scanner) num() error {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else if err := s.digits(); err != nil {
		return err
	}
	if s.peek() == '.' {
		s.i++
		if err := s.digits(); err != nil {
			return err
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		return s.digits()
	}
	return nil
}

func (s *scanner) digits() error {
	if !digit(s.peek()) {
		return s.fail("a digit is missing")
	}
	for digit(s.peek()) {
		s.i++
	}
	return nil
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// str passes a string, quotes and all.
func (s *scanner) str() error {
	s.i++
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		case c < ' ':
			return s.fail("a control byte in a string")
		case c < utf8.RuneSelf:
			s.i++
		default:
			r, n := utf8.DecodeRune(s.b[s.i:])
			if r == utf8.RuneError && n <= 1 {
				return s.fail("invalid UTF-8")
			}
			s.i += n
		}
	}
	return s.fail("a string does not end")
}

func (s *scanner) escape() error {
	s.i++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i++
		return nil
	case 'u':
	default:
		return s.fail("an unknown escape in a string")
	}
	r, n := hexRune(s.b[s.i-1:])
	if n == 0 {
		return s.fail("a bad \\u escape in a string")
	}
	if utf16.IsSurrogate(r) {
		return s.fail("half of a surrogate pair in a string")
	}
	s.i += n - 1
	return nil
}

// hexRune reads \u and four hex digits, or a surrogate pair of two, at the start of b. n is the bytes
// that it took, 0 when there is none; half a pair comes back as that surrogate.
func hexRune(b []byte) (r rune, n int) {
	r, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		if low, ok := hex4(b[6:]); ok {
			if full := utf16.DecodeRune(r, low); full != utf8.RuneError {
				return full, 12
			}
		}
	}
	return r, 6
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case digit(c):
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unquote gives the text of raw, a string that str has passed.
func unquote(raw []byte) string {
	raw = raw[1 : len(raw)-1]
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		if raw[0] != '\\' {
			out, raw = append(out, raw[0]), raw[1:]
			continue
		}
		if raw[1] == 'u' {
			r, n := hexRune(raw)
			out, raw = utf8.AppendRune(out, r), raw[n:]
			continue
		}
		out, raw = append(out, plain(raw[1])), raw[2:]
	}
	return string(out)
}

// plain is what \c stands for.
func plain(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}
