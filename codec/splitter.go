package codec

import (
	"errors"
	"fmt"
)

// Splitter returns a Framer that finds frames with your own function, which works like
// Framer.Split: for MQTT, RESP, Modbus and other protocols. The whole frame, including its header,
// is the packet's body; when written, a packet's body is the frame. split is called by many
// goroutines at once and must not keep b. Its errors end the stream; they are wrapped to be
// ErrBadFrame too. maxFrame is the largest frame in bytes; 0 means DefaultMaxFrame. A larger frame
// is rejected as soon as split returns its size, or when that many bytes have arrived and the size
// is still unknown.
func Splitter(split func(b []byte, seen int) (size, missing int, err error), maxFrame int) (Framer, error) {
	if split == nil {
		return nil, errors.New("codec: Splitter without a function")
	}
	limit, err := frameLimit(maxFrame, 1)
	if err != nil {
		return nil, err
	}
	return splitter{split, limit}, nil
}

type splitter struct {
	split func(b []byte, seen int) (size, missing int, err error)
	max   int
}

func (s splitter) Handles() bool { return false }

func (s splitter) Split(b []byte, seen int) (size, missing int, err error) {
	size, missing, err = s.split(b, seen)
	switch {
	case err != nil:
		if !errors.Is(err, ErrBadFrame) {
			err = fmt.Errorf("%w: %w", ErrBadFrame, err)
		}
		return 0, 0, err
	case size > s.max:
		return 0, 0, &FrameError{Length: int64(size), Min: 1, Max: s.max}
	case size == 0 && missing > s.max-len(b):
		return 0, 0, &FrameError{Length: int64(len(b)) + int64(missing), Min: 1, Max: s.max}
	}
	return size, missing, nil
}

func (s splitter) Packet(b []byte) Packet { return Packet{Body: b} }

// Append rejects only an empty body: the caller must ensure that the body is a frame.
func (s splitter) Append(dst []byte, p Packet) ([]byte, error) {
	if err := plainBody(p, s.max); err != nil {
		return dst, err
	}
	if len(p.Body) == 0 {
		return dst, fmt.Errorf("%w: a frame can't be empty", ErrBadBody)
	}
	return append(dst, p.Body...), nil
}
