// Package serial encodes Go values as bodies of packets and decodes them: JSON, MessagePack,
// Protobuf and raw bytes, with limits that are checked before memory is allocated for lengths that
// a peer claims. Servers and clients share it.
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

// Serializer is one encoding.
type Serializer interface {
	// Name returns the name for logs and settings.
	Name() string
	// Append appends v's encoding to dst and returns the extended slice. After an error the
	// returned slice has dst's length.
	Append(dst []byte, v any) ([]byte, error)
	// Decode decodes the whole of body into what v points to. Its errors are ErrBody. It does not
	// retain body, except for Raw.
	Decode(body []byte, v any) error
}

// ErrBody: the bytes are not a valid encoding, or exceed a limit.
var ErrBody = errors.New("serial: bad body")

// Limits limit what Decode accepts. A zero field means the default.
type Limits struct {
	// MaxSize is the maximum size of a body in bytes; default 16 MiB (the frame's limit applies
	// first, 64 KiB by default).
	MaxSize int
	// MaxDepth is the maximum nesting, the outermost object or array included; default 32.
	MaxDepth int
	// MaxItems is the maximum number of values, at all depths together; default 65,536.
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

// raw passes bytes through.
type raw struct{ lim Limits }

// Raw accepts []byte and string, and pointers to them. A decoded []byte is the body itself: valid
// and unchanged as long as that is, so for a packet's body until its handler returns.
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
