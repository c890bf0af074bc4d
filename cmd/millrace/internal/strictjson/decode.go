package strictjson

import (
	"fmt"
	"math"
	"strconv"
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
	name string
	set  func(raw []byte) string // stores the value; else says what is wrong with it
	raw  []byte                  // the last value seen under name
}

// Int wants an integer in [least, most]: digits with an optional minus, no fraction and
// no exponent.
func Int(name string, v *int64, least, most int64) Field {
	return Field{name: name, set: func(raw []byte) string {
		n, err := strconv.ParseInt(string(raw), 10, 64)
		switch {
		case !integer(raw):
			return "must be an integer"
		case err != nil || n < least || n > most:
			return fmt.Sprintf("must be %d to %d", least, most)
		}
		*v = n
		return ""
	}}
}

// Uint is Int for values that may need all 64 bits.
func Uint(name string, v *uint64, most uint64) Field {
	return Field{name: name, set: func(raw []byte) string {
		n, err := strconv.ParseUint(string(raw), 10, 64)
		if string(raw) == "-0" {
			n, err = 0, nil
		}
		switch {
		case !integer(raw):
			return "must be an integer"
		case err != nil || n > most:
			return fmt.Sprintf("must be 0 to %d", most)
		}
		*v = n
		return ""
	}}
}

// Float wants a number of at least least that a float64 can hold.
func Float(name string, v *float64, least float64) Field {
	return Field{name: name, set: func(raw []byte) string {
		if !number(raw) {
			return "must be a number"
		}
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || f < least {
			return fmt.Sprintf("must be %v to %v", least, math.MaxFloat64)
		}
		*v = f
		return ""
	}}
}

// String wants a string. What it stores is a copy, not a window of the body.
func String(name string, v *string) Field {
	return Field{name: name, set: func(raw []byte) string {
		if raw[0] != '"' {
			return "must be a string"
		}
		*v = unquote(raw)
		return ""
	}}
}

// Any takes whatever value is there, null too. What it stores is a window of the body,
// checked JSON.
func Any(name string, v *[]byte) Field {
	return Field{name: name, set: func(raw []byte) string {
		*v = raw
		return ""
	}}
}

// Decode reads body, one JSON object, into fields. The error is an *Error. When there
// is one, some of the fields may have been set.
func Decode(body []byte, fields ...Field) error {
	s := scanner{b: body}
	s.space()
	if s.peek() != '{' {
		return &Error{Why: "must be a JSON object"}
	}
	err := s.object(1, func(key string, raw []byte) {
		for i := range fields {
			if fields[i].name == key {
				fields[i].raw = raw
			}
		}
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.raw == nil {
			return &Error{f.name, "is missing"}
		}
		if why := f.set(f.raw); why != "" {
			return &Error{f.name, why}
		}
	}
	return nil
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
