package codec

import "fmt"

// Fixed returns the framing in which every frame is a body of size bytes and nothing else. maxFrame
// limits size; 0 means DefaultMaxFrame. Frames have no handles.
func Fixed(size, maxFrame int) (Framer, error) {
	limit, err := frameLimit(maxFrame, 1)
	if err != nil {
		return nil, err
	}
	if size < 1 || size > limit {
		return nil, fmt.Errorf("codec: frames of %d bytes: must be 1 to the frame limit, %d", size, limit)
	}
	return fixed{size}, nil
}

type fixed struct{ size int }

func (f fixed) Handles() bool { return false }

func (f fixed) Split(b []byte, _ int) (size, missing int, err error) {
	return f.size, max(0, f.size-len(b)), nil
}

func (f fixed) Packet(b []byte) Packet { return Packet{Body: b} }

func (f fixed) Append(dst []byte, p Packet) ([]byte, error) {
	if err := plainBody(p, f.size); err != nil {
		return dst, err
	}
	if len(p.Body) != f.size {
		return dst, fmt.Errorf("%w: %d bytes, every frame has %d", ErrBadBody, len(p.Body), f.size)
	}
	return append(dst, p.Body...), nil
}
