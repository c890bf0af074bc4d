package strictjson

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// MaxDepth is how deep objects and arrays may nest, the outermost one counted.
const MaxDepth = 32

// Error says what is wrong with a body, in words for whoever sent it.
type Error struct {
	Field string // the field, "" for the body as a whole
	Why   string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return e.Why
	}
	return e.Field + ": " + e.Why
}

// Field is one field that Decode looks for. Its constructors are Int, Uint, Float,
// String and Any.
type Field struct {
	name  string
	to    any     // *int64, *uint64, *float64, *string or *[]byte
	least float64 // of a *float64
	low   int64   // of an *int64
	most  uint64  // of an *int64 or *uint64
	// Where in the body the last value seen under name stands; end is 0 without one.
	// Not a slice of it: that would send what to points to to the heap.
	from, end int
}

// Int wants an integer in [least, most]: digits with an optional minus, no fraction and
// no exponent.
func Int(name string, v *int64, least, most int64) Field {
	return Field{name: name, to: v, low: least, most: uint64(max(most, 0))}
}

// Uint is Int for values that may need all 64 bits.
func Uint(name string, v *uint64, most uint64) Field {
	return Field{name: name, to: v, most: most}
}

// Float wants a number of at least least that a float64 can hold.
func Float(name string, v *float64, least float64) Field {
	return Field{name: name, to: v, least: least}
}

// String wants a string. What it stores is a copy, not a window of the body.
func String(name string, v *string) Field { return Field{name: name, to: v} }

// Any takes whatever value is there, null too. What it stores is a window of the body,
// checked JSON.
func Any(name string, v *[]byte) Field { return Field{name: name, to: v} }

// Decode reads body, one JSON object, into fields. The error is an *Error. When there
// is one, some of the fields may have been set. It allocates nothing but strings and
// errors: fields and what they point to may be on the caller's stack.
func Decode(body []byte, fields ...Field) error {
	s := scanner{b: body}
	s.space()
	if s.peek() != '{' {
		return &Error{Why: "must be a JSON object"}
	}
	err := s.object(1, fields)
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return err
	}
	for i := range fields {
		why := "is missing"
		if f := &fields[i]; f.end != 0 {
			why = f.store(body[f.from:f.end:f.end])
		}
		if why != "" {
			return &Error{strings.Clone(fields[i].name), why} // a copy, so that fields stays on the stack
		}
	}
	return nil
}

// found notes where the value of a key is, which is a string as it stands in the body.
func found(fields []Field, key []byte, from, end int) {
	text := key[1 : len(key)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		text = []byte(unquote(key))
	}
	for i := range fields {
		if fields[i].name == string(text) {
			fields[i].from, fields[i].end = from, end
		}
	}
}

// store sets what the field points to, or says what is wrong with the value.
func (f *Field) store(raw []byte) string {
	switch v := f.to.(type) {
	case *int64:
		n, err := strconv.ParseInt(string(raw), 10, 64)
		switch {
		case !integer(raw):
			return "must be an integer"
		case err != nil || n < f.low || n > 0 && uint64(n) > f.most:
			return fmt.Sprintf("must be %d to %d", f.low, f.most)
		}
		*v = n
	case *uint64:
		n, err := strconv.ParseUint(string(raw), 10, 64)
		if string(raw) == "-0" {
			n, err = 0, nil
		}
		switch {
		case !integer(raw):
			return "must be an integer"
		case err != nil || n > f.most:
			return fmt.Sprintf("must be 0 to %d", f.most)
		}
		*v = n
	case *float64:
		if !number(raw) {
			return "must be a number"
		}
		n, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || n < f.least {
			return fmt.Sprintf("must be %v to %v", f.least, math.MaxFloat64)
		}
		*v = n
	case *string:
		if raw[0] != '"' {
			return "must be a string"
		}
		*v = unquote(raw)
	case *[]byte:
		*v = raw
	}
	return ""
}

// Valid checks that b is one JSON value by this package's rules. The error is an *Error.
func Valid(b []byte) error {
	s := scanner{b: b}
	s.space()
	if err := s.value(1); err != nil {
		return err
	}
	return s.end()
}

// number tells whether raw, a checked value, is a number.
func number(raw []byte) bool { return raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' }

// integer tells whether raw, a checked value, is a number without fraction or exponent.
func integer(raw []byte) bool {
	for _, c := range raw {
		if c != '-' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
