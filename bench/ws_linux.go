package bench

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	mathrand "math/rand/v2"
)

// wsClient is the client's side of a WebSocket (RFC 6455). Every frame that it sends is a separate
// message, as with a browser's client; it reads the bytes of binary messages, whatever their
// boundaries.
type wsClient struct {
	host, path string
	key        string
	accept     string // what the server's answer must hold; empty once it has
	control    []byte // PONGs and the close frame that are to be sent
	left       int    // payload bytes of the open frame still to come
	message    bool   // a message has begun and its last frame has not
	keys       mathrand.PCG
}

// Opcodes and sizes of RFC 6455, section 5.2.
const (
	opContinue = 0x0
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xA

	finBit     = 0x80
	maskBit    = 0x80
	mostAnswer = 8 << 10 // bytes of the answer to the upgrade
)

func newWSClient(r *route) *wsClient {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	w := &wsClient{host: r.host, path: r.path, key: base64.StdEncoding.EncodeToString(key[:])}
	sum := sha1.Sum([]byte(w.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	w.accept = base64.StdEncoding.EncodeToString(sum[:])
	w.keys.Seed(binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:]))
	return w
}

// request appends the upgrade.
func (w *wsClient) request(b []byte) []byte {
	return fmt.Appendf(b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", w.path, w.host, w.key)
}

// answered parses the answer to the upgrade, if it is complete, and returns what follows it.
func (w *wsClient) answered(b []byte) (rest []byte, err error) {
	head, rest, whole := bytes.Cut(b, []byte("\r\n\r\n"))
	if !whole {
		if len(b) > mostAnswer {
			return nil, fmt.Errorf("bench: the answer to the upgrade is over %d bytes", mostAnswer)
		}
		return nil, nil
	}
	status, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 101")) {
		return nil, fmt.Errorf("bench: the upgrade was answered by %q", clip(status))
	}
	for line := range bytes.SplitSeq(fields, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Sec-WebSocket-Accept")) && string(bytes.TrimSpace(value)) == w.accept {
			w.accept = ""
			return rest, nil
		}
	}
	return nil, fmt.Errorf("bench: the answer to the upgrade has no Sec-WebSocket-Accept: %s", w.accept)
}

// messages appends waiting control frames and a message for each frame in out.
func (w *wsClient) messages(dst, out []byte) []byte {
	if w.accept != "" {
		return dst
	}
	dst = append(dst, w.control...)
	w.control = w.control[:0]
	for len(out) > 0 {
		n := 4 + int(binary.BigEndian.Uint32(out))
		dst = w.append(dst, opBinary, out[:n])
		out = out[n:]
	}
	return dst
}

// append appends a masked frame.
func (w *wsClient) append(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, finBit|op)
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, maskBit|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, maskBit|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, maskBit|127), uint64(n))
	}
	key := uint32(w.keys.Uint64())
	dst = binary.LittleEndian.AppendUint32(dst, key)
	dst = append(dst, payload...)
	xorMask(dst[len(dst)-len(payload):], key)
	return dst
}

// xorMask masks b, eight bytes at a time; the first byte of the mask is key's lowest.
func xorMask(b []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(key >> (8 * (i & 3)))
	}
}

// bye queues a close frame.
func (w *wsClient) bye() {
	if w.accept == "" {
		w.control = w.append(w.control, opClose, []byte{0x03, 0xE8}) // 1000
	}
}

// feed parses the server's frames, in place: the payload of data frames is moved to the front of b
// and returned; rest is an incomplete header or control frame, which the next read must follow.
// io.EOF: a close frame.
func (w *wsClient) feed(b []byte) (payload, rest []byte, err error) {
	out := 0
	for i := 0; i < len(b); {
		if w.left > 0 {
			n := min(w.left, len(b)-i)
			if out != i {
				copy(b[out:], b[i:i+n])
			}
			out, i, w.left = out+n, i+n, w.left-n
			continue
		}
		h, err := parseWSHeader(b[i:])
		if err != nil {
			return b[:out], nil, err
		}
		control := h.op&0x8 != 0
		if h.size == 0 || control && len(b)-i < h.size+h.n {
			return b[:out], b[i:], nil
		}
		i += h.size
		if control {
			err = w.took(h, b[i:i+h.n])
			i += h.n
		} else {
			err = w.data(h)
		}
		if err != nil {
			return b[:out], nil, err
		}
	}
	return b[:out], nil, nil
}

// data begins a data frame.
func (w *wsClient) data(h wsHeader) error {
	if w.message != (h.op == opContinue) || h.op != opContinue && h.op != opBinary {
		return fmt.Errorf("bench: a WebSocket frame with opcode %d, inside of a message: %v", h.op, w.message)
	}
	w.left, w.message = h.n, !h.fin
	return nil
}

// took processes a complete control frame.
func (w *wsClient) took(h wsHeader, body []byte) error {
	switch {
	case h.op == opPing:
		w.control = w.append(w.control, opPong, body)
	case h.op == opClose && len(body) >= 2:
		return fmt.Errorf("bench: the server closed the WebSocket with %d %q: %w", binary.BigEndian.Uint16(body), clip(body[2:]), io.EOF)
	case h.op == opClose:
		return fmt.Errorf("bench: the server closed the WebSocket: %w", io.EOF)
	case h.op != opPong:
		return fmt.Errorf("bench: a WebSocket frame with opcode %d", h.op)
	}
	return nil
}

// wsHeader is a frame's header: its own length in bytes, 0 while it is not whole, and that of the payload.
type wsHeader struct {
	size, n int
	op      byte
	fin     bool
}

func parseWSHeader(b []byte) (wsHeader, error) {
	if len(b) < 2 {
		return wsHeader{}, nil
	}
	h := wsHeader{size: 2, op: b[0] & 0xf, fin: b[0]&finBit != 0, n: int(b[1] & 0x7f)}
	switch {
	case b[0]&0x70 != 0:
		return h, fmt.Errorf("bench: a WebSocket frame with reserved bits: %#x", b[0])
	case b[1]&maskBit != 0:
		return h, fmt.Errorf("bench: a WebSocket frame from the server is masked")
	case h.op&0x8 != 0 && (!h.fin || h.n > 125):
		return h, fmt.Errorf("bench: a WebSocket control frame that is no short final one: %#x %#x", b[0], b[1])
	case h.n == 126 && len(b) < 4, h.n == 127 && len(b) < 10:
		return wsHeader{op: h.op}, nil
	case h.n == 126:
		h.size, h.n = 4, int(binary.BigEndian.Uint16(b[2:]))
	case h.n == 127:
		n := binary.BigEndian.Uint64(b[2:])
		if n > maxBody+frameHeader {
			return h, fmt.Errorf("bench: a WebSocket frame of %d bytes", n)
		}
		h.size, h.n = 10, int(n)
	}
	return h, nil
}
