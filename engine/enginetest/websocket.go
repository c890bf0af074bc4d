package enginetest

import (
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/gobwas/ws"
)

// wsClient is the WebSocket of a client.
type wsClient struct {
	w      *World
	out    func([]byte) // sends
	host   string
	path   string
	key    string
	answer []byte // what has come of the answer to the request
	open   bool   // it has come
	ready  bool   // frames may be sent: it has come, or they follow the request at once
	failed bool   // it was no upgrade, or the stream is broken
	ended  bool   // a close frame has been sent

	waiting []byte        // of frames, until the upgrade
	finish  func()        // is done behind that; nil: nothing
	in      []byte        // of what has come, no whole WebSocket frame yet
	message []byte        // of the message that is not whole yet
	packed  bool          // it is compressed
	deflate bool          // messages may be compressed, if the server wants that too
	code    ws.StatusCode // of the server's close frame; 0: none has come
}

// ask sends the request.
func (x *wsClient) ask() {
	nonce := make([]byte, 16)
	for i := range nonce {
		nonce[i] = byte(x.w.Pick(256))
	}
	x.key = base64.StdEncoding.EncodeToString(nonce)
	extensions := ""
	if x.deflate = x.deflate && x.w.Chance(2); x.deflate {
		extensions = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"
	}
	early := !x.deflate && x.w.Chance(4)
	x.out(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s\r\n", x.path, x.host, x.key, extensions))
	if early {
		x.begin()
	}
}

// begin sends what waits.
func (x *wsClient) begin() {
	x.ready = true
	waiting, finish := x.waiting, x.finish
	x.waiting, x.finish = nil, nil
	x.send(waiting)
	if finish != nil {
		finish()
	}
}

// send sends bytes in messages, each in one frame or more.
func (x *wsClient) send(b []byte) {
	if !x.ready {
		x.waiting = append(x.waiting, b...)
		return
	}
	if x.ended || x.failed || len(b) == 0 {
		return
	}
	head := ws.Header{OpCode: ws.OpBinary}
	if x.deflate && x.w.Chance(2) {
		b = deflated(b)
		head.Rsv = ws.Rsv(true, false, false)
	}
	for !head.Fin {
		n := len(b)
		if x.w.Chance(4) {
			n = x.w.Pick(n + 1)
		}
		head.Fin = n == len(b)
		x.frame(head, b[:n])
		b = b[n:]
		head.OpCode, head.Rsv = ws.OpContinuation, 0
		if x.w.Chance(16) {
			x.frame(ws.Header{Fin: true, OpCode: ws.OpPing}, []byte{byte(len(b))})
		}
	}
}

// frame sends one frame, masked.
func (x *wsClient) frame(h ws.Header, payload []byte) {
	h.Masked, h.Length = true, int64(len(payload))
	mask := x.w.Pick(1 << 16)
	h.Mask = [4]byte{byte(mask), byte(mask >> 8), byte(mask >> 4), byte(len(payload))}
	var b bytes.Buffer
	x.w.Check(ws.WriteHeader(&b, h))
	at := b.Len()
	b.Write(payload)
	ws.Cipher(b.Bytes()[at:], h.Mask, 0)
	x.out(b.Bytes())
}

// behind does something when frames can be sent and what waits has been.
func (x *wsClient) behind(fn func()) {
	if x.ready {
		fn()
		return
	}
	x.finish = fn
}

// close sends the close frame.
func (x *wsClient) close() {
	if !x.ended && !x.failed {
		x.frame(ws.Header{Fin: true, OpCode: ws.OpClose}, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
		x.ended = true
	}
}

// received takes bytes of the stream and returns those of frames.
func (x *wsClient) received(b []byte) (data []byte) {
	if !x.open {
		x.answer = append(x.answer, b...)
		end := bytes.Index(x.answer, []byte("\r\n\r\n"))
		if end < 0 || x.failed {
			return nil
		}
		if b = x.answer[end+4:]; !x.opened(string(x.answer[:end])) {
			x.failed = true
			return nil
		}
	}
	x.in = append(x.in, b...)
	for !x.failed {
		r := bytes.NewReader(x.in)
		h, err := ws.ReadHeader(r)
		if err == io.EOF || err == io.ErrUnexpectedEOF || err == nil && int64(r.Len()) < h.Length {
			return data
		}
		if err != nil || h.Masked || h.Rsv1() && (!x.deflate || h.OpCode == ws.OpContinuation || h.OpCode.IsControl()) || h.Rsv2() || h.Rsv3() {
			x.fail("a WebSocket frame %+v, %v", h, err)
			return data
		}
		at := len(x.in) - r.Len()
		payload := x.in[at : at+int(h.Length)]
		x.in = x.in[at+int(h.Length):]
		data = append(data, x.took(h, payload)...)
	}
	return data
}

// opened takes the answer to the request.
func (x *wsClient) opened(head string) bool {
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		return false // the server does not want it now
	}
	sum := sha1.Sum([]byte(x.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if want := "Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]); !strings.Contains(head, want) {
		x.fail("an answer without %q: %q", want, head)
		return false
	}
	x.open = true
	x.deflate = strings.Contains(head, "permessage-deflate")
	if !x.ready {
		x.begin()
	}
	return true
}

// took takes one frame of the server's and returns what is of the codec's frames.
func (x *wsClient) took(h ws.Header, payload []byte) []byte {
	switch {
	case x.code != 0:
		x.fail("a WebSocket frame %+v behind the close frame", h)
	case h.OpCode == ws.OpClose:
		x.code, _ = ws.ParseCloseFrameData(payload)
		if x.code == 0 {
			x.code = ws.StatusNoStatusRcvd
		}
		x.close()
	case h.OpCode == ws.OpPing:
		x.frame(ws.Header{Fin: true, OpCode: ws.OpPong}, payload)
	case h.OpCode == ws.OpPong:
	case h.OpCode == ws.OpBinary && x.message == nil, h.OpCode == ws.OpContinuation && x.message != nil:
		if h.OpCode == ws.OpBinary {
			x.packed = h.Rsv1()
		}
		if x.message = append(x.message, payload...); x.message == nil {
			x.message = []byte{}
		}
		if !h.Fin {
			return nil
		}
		m := x.message
		x.message = nil
		if x.packed {
			return x.inflated(m)
		}
		return m
	default:
		x.fail("a WebSocket frame %+v in the middle of a message: %v", h, x.message != nil)
	}
	return nil
}

func (x *wsClient) fail(format string, args ...any) {
	x.failed = true
	x.w.Errorf("a client was sent "+format, args...)
}

// deflated compresses a message by itself (RFC 7692, section 7.2.1).
func deflated(b []byte) []byte {
	var out bytes.Buffer
	z, _ := flate.NewWriter(&out, flate.BestSpeed) // it fails for a level that there isn't
	_, _ = z.Write(b)
	_ = z.Flush()
	return bytes.TrimSuffix(out.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// inflated is its reverse.
func (x *wsClient) inflated(b []byte) []byte {
	tail := []byte{0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff}
	out, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(b), bytes.NewReader(tail))))
	if err != nil {
		x.fail("a message that does not inflate: %v", err)
	}
	return out
}
