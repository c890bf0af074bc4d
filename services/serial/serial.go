// Package serial turns bodies of packets into Go values and back: JSON,
// MessagePack, Protobuf and raw bytes, with limits that hold before anything is
// allocated for what a peer claims. Servers and clients share it.
//
//	s := serial.JSON(serial.Limits{})
//	body, err := s.Append(nil, Sum{A: 1, B: 2})
//	err = s.Decode(body, &sum)
//
// Serializers have no state and may be used by any goroutine.
package serial

import (
	"errors"
	"fmt"
)

// Serializer is one way to write values as bytes.
type Serializer interface {
	// Name is what logs and settings call it.
	Name() string
	// Append adds v's bytes to dst and returns the longer slice. On an error
	// dst's length is as it was.
	Append(dst []byte, v any) ([]byte, error)
	// Decode reads the whole of body into what v points to. Errors are ErrBody.
	// It keeps nothing of body, but for Raw.
	Decode(body []byte, v any) error
}

// ErrBody: the bytes are not what they should be, or over a limit.
var ErrBody = errors.New("serial: bad body")

// Limits bound what Decode takes. Zero fields mean the defaults.
type Limits struct {
	// MaxSize of a body in bytes; default 16 MiB (the frame's limit is the
	// first one, 64 KiB by default).
	MaxSize int
	// MaxDepth of nesting, the outermost object or array included; default 32.
	MaxDepth int
	// MaxItems bounds values, at all depths together; default 65,536.
	MaxItems int
}

func (l Limits) withDefaults() Limits {
	if l.MaxSize == 0 {
		l.MaxSize = 16 << 20
	}
	if l.MaxDepth == 0 {
		l.MaxDepth = 32
	}
	if l.MaxItems == 0 {
		l.MaxItems = 1 << 16
	}
	return l
}

// bad returns an ErrBody that says why.
func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBody, fmt.Sprintf(format, args...))
}

// raw hands bytes through.
type raw struct{ lim Limits }

// Raw takes []byte and string, and pointers to them. A decoded []byte IS the
// body: valid and unchanged as long as that is, so for a packet's body until
// its handler returns.
func Raw(l Limits) Serializer { return raw{l.withDefaults()} }

func (raw) Name() string { return "raw" }

func (raw) Append(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return append(dst, v...), nil
	case *[]byte:
		return append(dst, *v...), nil
	case string:
		return append(dst, v...), nil
	case *string:
		return append(dst, *v...), nil
	}
	return dst, fmt.Errorf("serial: raw: %T is neither []byte nor string", v)
}

func (r raw) Decode(body []byte, v any) error {
	if len(body) > r.lim.MaxSize {
		return bad("%d bytes", len(body))
	}
	switch v := v.(type) {
	case *[]byte:
		*v = body
	case *string:
		*v = string(body)
	default:
		return fmt.Errorf("serial: raw: %T is neither *[]byte nor *string", v)
	}
	return nil
}
