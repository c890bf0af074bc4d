package codec

import (
	"errors"
	"fmt"
)

// Splitter returns a Framer that finds frames with a function of your own: the answer
// to Framer.Split's question, for MQTT, RESP, Modbus or whatever has frames. A frame is
// its packet's body, whole, header included; a packet's body is written as it is. split
// is called by many goroutines at once and must keep nothing of b. Its errors end the
// stream; they are made to be ErrBadFrame too. maxFrame is the largest frame in bytes; 0
// means DefaultMaxFrame. A frame that passes it is refused as soon as split tells its
// size, or when so many bytes are there and it still can't.
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

// Append refuses an empty body only: whether the bytes are a frame is the caller's word.
func (s splitter) Append(dst []byte, p Packet) ([]byte, error) {
	if err := plainBody(p, s.max); err != nil {
		return dst, err
	}
	if len(p.Body) == 0 {
		return dst, fmt.Errorf("%w: no bytes are no frame", ErrBadBody)
	}
	return append(dst, p.Body...), nil
}
