package door

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// wsIn takes a client's WebSocket stream apart. It holds half a header or half a control
// frame at most: the payload of data goes on as it comes.
type wsIn struct {
	part    *wsPart // half a header, or a control frame's payload; nil: neither is under way
	left    int64   // payload bytes of the open frame still to come
	heads   uint32  // headers and control frames that have been whole
	mask    [4]byte
	at      uint8     // how far the mask of the open frame has been used, modulo 4
	n       uint8     // bytes in part
	op      ws.OpCode // of the control frame
	control bool      // part holds the payload of a control frame
	open    bool      // inside a data frame
	message bool      // a message has begun and its last frame has not
	inflate bool      // permessage-deflate has been agreed on
	packed  bool      // the message, or the last one, is compressed
	over    bool      // a message has just ended
	last    bool      // the frame that is open is its message's last
}

type wsPart [14 + 125]byte

// wsRoom is what the streams of one loop share.
type wsRoom struct {
	rd    bytes.Reader // of a header
	head  [12]byte
	spare *wsPart
}

// begin gives the stream a part.
func (w *wsIn) begin(room *wsRoom) {
	if w.part == nil {
		if w.part = room.spare; w.part == nil {
			w.part = new(wsPart)
		}
		room.spare = nil
	}
}

// end gives the part back: what was under way is whole.
func (w *wsIn) end(room *wsRoom) { w.part, room.spare = nil, w.part }

// wsEvents takes what wsIn finds, in order.
type wsEvents interface {
	// ping brings the body of a PING, which is valid until it returns.
	ping(body []byte)
	// closeFrame ends the stream: with the code to answer, 0 for none, which is the peer's
	// own or that of what is wrong. Nothing of the stream is read behind it.
	closeFrame(code uint16)
}

// closeNone is the answer to a close frame without a code.
const closeNone = 0

// feed takes b, in place: the payload of data frames is moved to its front and unmasked.
// It returns the payload, without that of a message that turned out to be wrong before it
// ended, and how much of b it has taken: all, unless messages may be compressed and one of
// them has ended. ended: a close frame, or something wrong, was the last thing.
func (w *wsIn) feed(b []byte, ev wsEvents, room *wsRoom) (payload []byte, used int, ended bool) {
	out, whole := 0, 0 // payload moved to b[:out]; b[:whole] belongs to messages that have ended
	w.over = false
	for i := 0; i < len(b); {
		if w.open && !w.control {
			n := int(min(w.left, int64(len(b)-i)))
			chunk := b[i : i+n]
			ws.Cipher(chunk, w.mask, int(w.at))
			if out != i {
				copy(b[out:], chunk)
			}
			out, i = out+n, i+n
			w.at = uint8(int(w.at)+n) & 3
			if w.left -= int64(n); w.left == 0 {
				w.open = false
				if w.last {
					w.message = false
					whole = out
					if w.inflate {
						w.over = true
						return b[:out], i, false
					}
				}
			}
			continue
		}
		if w.part == nil {
			if size := w.quick(b[i:]); size > 0 {
				i += size
				continue
			}
		}
		want := w.want()
		if int(w.n) < want { // more of a header or of a control frame's payload
			w.begin(room)
			n := min(want-int(w.n), len(b)-i)
			copy(w.part[w.n:], b[i:i+n])
			w.n += uint8(n)
			i += n
			if int(w.n) < want || !w.control && w.want() > int(w.n) {
				continue
			}
		}
		if w.control {
			if w.endControl(ev, room) {
				return b[:out], len(b), true
			}
			continue
		}
		code := w.header(room)
		if !w.control {
			w.end(room)
		}
		if code != 0 {
			ev.closeFrame(code)
			if w.message {
				out = whole
			}
			return b[:out], len(b), true
		}
		if w.control && w.left == 0 && w.endControl(ev, room) {
			return b[:out], len(b), true
		}
		if !w.control && w.open && w.left == 0 { // an empty frame
			w.open = false
			if w.last {
				w.message = false
				whole = out
				if w.inflate {
					w.over = true
					return b[:out], i, false
				}
			}
		}
	}
	return b[:out], len(b), false
}

// quick begins the frame whose header stands at the start of b, if it is what nearly all are: a binary message
// of one frame with something in it, under 64 KiB and masked. It returns the header's length, 0 where the long way
// must look at it.
func (w *wsIn) quick(b []byte) (size int) {
	if len(b) < 8 || b[0] != 0x80|byte(ws.OpBinary) || b[1] <= 0x80 || b[1] == 0xff || w.message {
		return 0
	}
	w.left, size = int64(b[1]&0x7f), 6
	if b[1] == 0x80|126 {
		w.left, size = int64(binary.BigEndian.Uint16(b[2:])), 8
		if w.left == 0 {
			return 0
		}
	}
	w.mask, w.at = [4]byte(b[size-4:size]), 0
	w.open, w.last, w.message, w.packed = true, true, true, false
	return size
}

// want is how many bytes part must hold before it means something.
func (w *wsIn) want() int {
	if w.control {
		return int(w.left)
	}
	if w.n < 2 {
		return 2
	}
	n := 2
	if w.part[1]&0x80 != 0 {
		n += 4
	}
	switch w.part[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	return n
}

// header begins the frame whose header is in part, which a control frame's payload then goes
// into. It returns the code of what is wrong.
func (w *wsIn) header(room *wsRoom) (code uint16) {
	room.rd.Reset(w.part[:w.n])
	w.n = 0
	w.heads++
	h, err := ws.ReadHeaderBuffer(&room.rd, room.head[:])
	if err != nil {
		return uint16(ws.StatusProtocolError)
	}
	state := ws.StateServerSide
	if w.message {
		state = state.Set(ws.StateFragmented)
	}
	packed := w.inflate && h.Rsv1() && h.OpCode.IsData() && h.OpCode != ws.OpContinuation
	if packed { // the first frame of a compressed message; anywhere else RSV1 is wrong
		h.Rsv &^= 4
	}
	if ws.CheckHeader(h, state) != nil {
		return uint16(ws.StatusProtocolError)
	}
	if h.OpCode == ws.OpText {
		return uint16(ws.StatusUnsupportedData)
	}
	w.mask, w.at, w.left, w.open = h.Mask, 0, h.Length, true
	if w.control = h.OpCode.IsControl(); w.control {
		w.op = h.OpCode
		return 0
	}
	if w.inflate && !w.message {
		w.packed = packed
	}
	w.last, w.message = h.Fin, true
	return 0
}

// endControl handles a whole control frame; true: it was the last.
func (w *wsIn) endControl(ev wsEvents, room *wsRoom) (ended bool) {
	body := w.part[:w.n]
	defer w.end(room)
	ws.Cipher(body, w.mask, 0)
	w.n, w.control, w.open = 0, false, false
	w.heads++
	switch w.op {
	case ws.OpPing:
		ev.ping(body)
	case ws.OpClose:
		ev.closeFrame(closeAnswer(body))
		return true
	}
	return false
}

// closeAnswer is the code that a close frame with that body is answered with.
func closeAnswer(body []byte) uint16 {
	if len(body) == 0 {
		return closeNone
	}
	if len(body) == 1 {
		return uint16(ws.StatusProtocolError)
	}
	switch code := binary.BigEndian.Uint16(body); {
	case !utf8.Valid(body[2:]):
		return uint16(ws.StatusInvalidFramePayloadData)
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return code
	}
	return uint16(ws.StatusProtocolError)
}

// appendHeader appends the header of a server's frame with n bytes of payload.
func appendHeader(b []byte, op ws.OpCode, n int) []byte {
	return appendLength(append(b, 0x80|byte(op)), n)
}

// appendLength appends the length of a server's frame.
func appendLength(b []byte, n int) []byte {
	switch {
	case n <= 125:
		return append(b, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
}

// appendClose appends a close frame; code 0 is one without a body.
func appendClose(b []byte, code uint16) []byte {
	if code == closeNone {
		return appendHeader(b, ws.OpClose, 0)
	}
	return binary.BigEndian.AppendUint16(appendHeader(b, ws.OpClose, 2), code)
}

// maxMessage is how much is put into one message, but for a frame that is longer: what ends
// the stream waits for the end of a message.
const maxMessage = 64 << 10

// message is how long the next message is that begins with p: the whole frames in p, or
// the one frame of which p is the beginning; 0: how long that frame is nobody knows, and behind others, as more says, it
// has to come again, with more of it. Alone it is taken as it comes.
func (c *conn) message(p []byte, more bool) int {
	if len(p) > maxMessage {
		if whole, _ := c.l.h.cfg.Frames(c.Conn, c.sink, p[:maxMessage]); whole > 0 {
			return whole
		}
	}
	whole, next := c.l.h.cfg.Frames(c.Conn, c.sink, p)
	switch {
	case whole > 0:
		return whole
	case next > 0 || more:
		return next
	}
	return len(p)
}

// atEnd tells whether no message is under way.
func (c *conn) atEnd() bool { return c.ws.left == 0 && (c.x == nil || len(c.x.pre) == 0) }

// beginControl moves the control frames that wait in front, if no message is under way.
func (c *conn) beginControl() {
	if x := c.x; x != nil && len(x.ctl) > 0 && c.atEnd() {
		x.pre, x.ctl = x.ctl, nil
	}
}

// took notes that the layer below has taken n bytes of what began with pre, and returns how
// many of them were payload.
func (c *conn) took(n int) (payload int) {
	if x := c.x; x != nil && len(x.pre) > 0 {
		m := min(n, len(x.pre))
		n -= m
		if x.pre = x.pre[m:]; len(x.pre) == 0 {
			x.pre = nil
		}
	}
	c.ws.left -= n
	return n
}
