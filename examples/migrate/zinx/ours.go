package zinx

import (
	"encoding/binary"
	"errors"
	"fmt"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
)

func register(m *services.Controller) error {
	err := m.Raw(services.Handle(0, 1), func(s *engine.Session, p codec.Packet) error {
		return s.Reply(p, p.Body)
	})
	return errors.Join(err, m.Raw(services.Handle(0, 2), func(s *engine.Session, p codec.Packet) error {
		return s.Broadcast(0, 2, p.Body)
	}))
}

type zinxFrame struct{ max int }

func (f zinxFrame) Split(b []byte, _ int) (size, missing int, err error) {
	if len(b) < 8 {
		return 0, 8 - len(b), nil
	}
	n := binary.BigEndian.Uint32(b[4:])
	if uint64(n) > uint64(f.max) {
		return 0, 0, fmt.Errorf("%w: %d bytes", codec.ErrBadFrame, n)
	}
	size = 8 + int(n)
	return size, max(size-len(b), 0), nil
}

func (zinxFrame) Packet(b []byte) codec.Packet {
	main, sub := codec.Split(binary.BigEndian.Uint32(b))
	return codec.Packet{Main: main, Sub: sub, Body: b[8:]}
}

func (f zinxFrame) Append(dst []byte, p codec.Packet) ([]byte, error) {
	if len(p.Body) > f.max {
		return dst, codec.ErrBodyTooLarge
	}
	dst = binary.BigEndian.AppendUint32(dst, p.Handle())
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(p.Body)))
	return append(dst, p.Body...), nil
}

func (zinxFrame) Handles() bool { return true }

func config(addr string) engine.Config {
	return engine.Config{
		Addrs: []string{addr}, Framer: zinxFrame{max: 4096},
		NoSystemFrames: true, // zinx's clients know no PING, ERROR or GOAWAY, and their IDs are Main 0
	}
}
