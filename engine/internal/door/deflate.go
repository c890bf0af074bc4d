package door

import (
	"bytes"
	"compress/flate"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gobwas/ws"
)

// The compression of WebSocket messages is RFC 7692's permessage-deflate, without context
// takeover in either direction: each message is compressed by itself. So a connection that
// waits holds nothing for it, a compressor is needed for each loop and not for each
// connection, and what goes to many sessions is compressed once.

const (
	deflateName = "permessage-deflate"

	// leastDeflated is the shortest message that is compressed, in bytes: below it
	// compress/flate looks for no repetitions.
	leastDeflated = 128
	// deflateChunk is how much of a message is compressed at once, in bytes: LZ77 looks no
	// further back.
	deflateChunk = 32 << 10
)

// deflateTail ends what a flush writes, and is not sent (RFC 7692, section 7.2.1).
var deflateTail = []byte{0, 0, 0xff, 0xff}

// deflateTerms is what has been agreed on. The zero value is no compression.
type deflateTerms struct {
	on    bool
	bits  int  // of the window that the server compresses with; 15 where nobody says
	asked bool // the client has asked for bits
}

// agree takes the first of the client's offers that can be met.
func agree(h http.Header) deflateTerms {
	for _, v := range h["Sec-Websocket-Extensions"] {
		for _, offer := range splitList(v, ',') {
			if t := parseOffer(offer); t.on {
				return t
			}
		}
	}
	return deflateTerms{}
}

// parseOffer reads one offer. One with a parameter that is unknown, given twice or out of
// its range is declined as a whole.
func parseOffer(s string) deflateTerms {
	parts := splitList(s, ';')
	if !strings.EqualFold(parts[0], deflateName) {
		return deflateTerms{}
	}
	t := deflateTerms{on: true, bits: 15}
	var seen []string
	for _, p := range parts[1:] {
		name, value, given := strings.Cut(p, "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), unquote(strings.TrimSpace(value))
		if slices.Contains(seen, name) {
			return deflateTerms{}
		}
		seen = append(seen, name)
		bits, fits := windowBits(value)
		switch {
		case (name == "server_no_context_takeover" || name == "client_no_context_takeover") && !given:
		case name == "client_max_window_bits" && (!given || fits): // a promise; whatever comes is inflated
		case name == "server_max_window_bits" && fits:
			t.bits, t.asked = bits, true
		default:
			return deflateTerms{}
		}
	}
	return t
}

// windowBits reads 8 to 15, without leading zeros.
func windowBits(s string) (bits int, ok bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 8 && n <= 15 && strconv.Itoa(n) == s
}

// splitList takes a list apart at sep, but for one inside of quotes, and trims its items.
func splitList(s string, sep byte) (items []string) {
	from, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			items = append(items, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(items, strings.TrimSpace(s[from:]))
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	return strings.ReplaceAll(s[1:len(s)-1], `\`, "")
}

// header is what the server answers.
func (t deflateTerms) header() string {
	s := deflateName + "; server_no_context_takeover; client_no_context_takeover"
	if t.asked {
		s += "; server_max_window_bits=" + strconv.Itoa(t.bits)
	}
	return s
}

// deflated is the compression of one connection. Loop goroutine.
type deflated struct {
	inflating
	window int // bytes of the window that the server compresses with

	out   []byte // the rest of a frame that the layer below has not taken
	ahead int    // bytes of the next write that are in out already
	left  int    // bytes of the message under way that are in no frame yet
	open  bool   // the message under way is compressed
	held  int    // of out, in the budget
}

// deflater compresses for the connections of a loop.
type deflater struct {
	w   *flate.Writer
	buf bytes.Buffer // what w writes

	// The last message that was compressed in one piece, and what came of it: a broadcast is
	// the same for each session.
	plain  []byte
	window int
	packed []byte
}

// compress returns what p is compressed, complete with the tail, until the next call. No
// reference goes further back than window.
func (d *deflater) compress(p []byte, window int) []byte {
	d.buf.Reset()
	if d.w == nil {
		d.w, _ = flate.NewWriter(&d.buf, flate.BestSpeed) // it fails only for a level that is none
	}
	for len(p) > 0 {
		n := min(len(p), window)
		d.w.Reset(&d.buf)
		_, _ = d.w.Write(p[:n]) // to memory
		_ = d.w.Flush()
		p = p[n:]
	}
	return d.buf.Bytes()
}

// message is compress for a whole message without its tail; nil where that makes it no
// shorter. shared: it had been compressed for another session.
func (d *deflater) message(p []byte, window int) (packed []byte, shared bool) {
	if d.window == window && bytes.Equal(d.plain, p) {
		return d.packed, true
	}
	packed = bytes.TrimSuffix(d.compress(p, window), deflateTail)
	if len(packed) >= len(p) {
		packed = nil
	}
	d.plain, d.window = append(d.plain[:0], p...), window
	if d.packed = append(d.packed[:0], packed...); packed == nil {
		d.packed = nil
	}
	return packed, false
}

// writeDeflated is Write where messages may be compressed. It has taken what the kernel
// has: what is encoded and not taken is the beginning of the next write.
func (c *conn) writeDeflated(p []byte) (done int, err error) {
	z := c.x.z
	for {
		if err := c.flushDeflated(); err != nil {
			return done, err
		}
		if len(z.out) > 0 || len(c.x.pre) > 0 {
			return done, nil
		}
		n := min(z.ahead, len(p)-done)
		done += n
		z.ahead -= n
		switch {
		case done == len(p):
			return done, c.flush()
		case c.ws.closed:
			return len(p), nil
		}
		first := z.left == 0
		if first {
			if z.left = c.message(p[done:], done > 0); z.left == 0 {
				return done, c.flush()
			}
		}
		b, n := c.encode(p[done:], first)
		z.ahead = n
		m, err := c.lower(b)
		z.keep(c, append([]byte(nil), b[m:]...))
		if err != nil {
			return done, err
		}
	}
}

// encode makes a frame of the beginning of p, the first of a message or another one, and tells how much that is. The frame
// is valid until the loop writes to another connection.
func (c *conn) encode(p []byte, first bool) (frame []byte, n int) {
	z := c.x.z
	op := byte(ws.OpContinuation)
	if first {
		op = byte(ws.OpBinary)
		z.open = z.left >= leastDeflated
	}
	n = min(z.left, len(p), deflateChunk)
	last := n == z.left
	b := p[:n]
	switch {
	case !z.open:
	case first && last:
		packed, shared := c.l.deflater.message(b, z.window)
		if z.open = packed != nil; z.open {
			b = packed
			c.l.h.st.sentDeflated(n, len(b), true, shared)
		}
	default:
		if b = c.l.deflater.compress(b, z.window); last {
			b = bytes.TrimSuffix(b, deflateTail)
		}
		c.l.h.st.sentDeflated(n, len(b), first, false)
	}
	if last {
		op |= 0x80
	}
	if first && z.open {
		op |= 0x40 // RSV1
	}
	c.l.gather = append(appendLength(append(c.l.gather[:0], op), len(b)), b...)
	z.left -= n
	return c.l.gather, n
}

// flushDeflated writes the frames that wait, and behind them control frames.
func (c *conn) flushDeflated() error {
	x := c.x
	z := x.z
	for len(z.out) > 0 {
		m, err := c.lower(z.out)
		left := len(z.out) - m
		z.keep(c, z.out[m:])
		if err != nil || left > 0 {
			return err
		}
	}
	for c.beginControl(); len(x.pre) > 0; c.beginControl() {
		m, err := c.lower(x.pre)
		c.took(m)
		if err != nil || len(x.pre) > 0 {
			return err
		}
	}
	return nil
}

// keep notes what the layer below has not taken.
func (z *deflated) keep(c *conn, rest []byte) {
	if len(rest) == 0 {
		rest = nil
	}
	c.l.h.cfg.Budget.Add(cap(rest) - z.held)
	z.out, z.held = rest, cap(rest)
}
