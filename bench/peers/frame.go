package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
)

const (
	header        = 8
	maxFrame      = 16 << 20
	echoHandle    = 1<<16 | 1
	castHandle    = 1<<16 | 2
	readBuffer    = 64 << 10
	smallestFrame = 4
)

var errFrame = errors.New("bad length or unknown handle")

// answer serves every complete frame of in: it appends the echoes to dst, calls cast with the frame
// of each broadcast (cast must copy what it keeps) and returns how many bytes of in it used.
func answer(dst, in []byte, cast func(frame []byte)) (out []byte, used int, err error) {
	for {
		frame, err := next(in[used:])
		if err != nil || frame == nil {
			return dst, used, err
		}
		used += len(frame)
		switch binary.BigEndian.Uint32(frame[4:]) {
		case echoHandle:
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(frame)-4))
			dst = binary.BigEndian.AppendUint32(dst, echoHandle)
			dst = append(dst, frame[header:]...)
		case castHandle:
			cast(frame)
		default:
			return dst, used, errFrame
		}
	}
}

// next returns the frame at the start of in, nil when it is not whole.
func next(in []byte) ([]byte, error) {
	if len(in) < 4 {
		return nil, nil
	}
	n := binary.BigEndian.Uint32(in)
	if n < smallestFrame || n > maxFrame {
		return nil, errFrame
	}
	if len(in) < 4+int(n) {
		return nil, nil
	}
	return in[:4+int(n)], nil
}

func ready(addr net.Addr) { announceAll("tcp://" + addr.String()) }

// announceAll says where the peer listens.
func announceAll(urls ...string) { fmt.Println("ready " + strings.Join(urls, " ")) }

// answerMessage serves a WebSocket message, which must hold whole frames.
func answerMessage(dst, message []byte, cast func(frame []byte)) ([]byte, error) {
	out, used, err := answer(dst, message, cast)
	if err == nil && used < len(message) {
		err = errFrame
	}
	return out, err
}

// freeAddr replaces port 0 by a free one, for libraries that don't say what they bound.
func freeAddr(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
