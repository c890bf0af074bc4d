package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/codec"
	"millrace/engine"
)

// answers reports whether p answers req: it has the same handle, is the PONG of a PING, or is an
// ERROR about the request or the connection.
func (l *listener) answers(p, req codec.Packet) bool {
	switch {
	case p.Main == engine.SystemMain && p.Sub == engine.SubError:
		_, about, _, ok := l.parseError(p.Body)
		return ok && (about == req.Handle() || about == 0)
	case req.Main == engine.SystemMain && req.Sub == engine.SubPing:
		return p.Main == engine.SystemMain && p.Sub == engine.SubPong
	default:
		return p.Handle() == req.Handle()
	}
}

// refusal returns the error that an ERROR frame stands for, nil for any other frame.
func (l *listener) refusal(p codec.Packet) error {
	if p.Main != engine.SystemMain || p.Sub != engine.SubError {
		return nil
	}
	code, _, _, _ := l.parseError(p.Body)
	return exitf(exitError, "the server answered ERROR %d %v", code, code)
}

// parseError reads the body of an ERROR frame.
func (l *listener) parseError(b []byte) (code engine.ErrorCode, about uint32, text string, ok bool) {
	if len(b) < 6 {
		return 0, 0, "", false
	}
	return engine.ErrorCode(l.order.Uint16(b)), l.order.Uint32(b[2:]), string(b[6:]), true
}

// listener prints the frames of a connection and answers its PINGs.
type listener struct {
	conn net.Conn
	form *codec.Codec
	out  io.Writer
	hex  bool
	done chan struct{} // closed when frames are no longer received

	order binary.ByteOrder // of the integers in system frames

	mu sync.Mutex // guards writing to conn: the request and the PONGs
}

func (l *listener) send(p codec.Packet) error {
	frame, err := l.form.Append(nil, p)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, err = l.conn.Write(frame)
	}
	if err != nil {
		return exitf(exitProtocol, "%w", err)
	}
	return nil
}

// read starts a goroutine that ends when the connection does.
func (l *listener) read() (<-chan codec.Packet, <-chan error) {
	frames, end := make(chan codec.Packet), make(chan error, 1)
	go func() {
		r := codec.NewReader(l.conn, l.form)
		for {
			p, err := r.Next()
			if err != nil {
				end <- err
				return
			}
			if p.Main == engine.SystemMain && p.Sub == engine.SubPing {
				if err := l.send(codec.Packet{Sub: engine.SubPong, Seq: p.Seq, Body: p.Body}); err != nil {
					end <- err
					return
				}
				continue
			}
			select {
			case frames <- p.Clone():
			case <-l.done:
				return
			}
		}
	}()
	return frames, end
}

func (l *listener) print(p codec.Packet) { fmt.Fprintln(l.out, l.line(p)) }

// line formats a frame for people, without control characters.
func (l *listener) line(p codec.Packet) string {
	head := fmt.Sprintf("%d/%d", p.Main, p.Sub)
	if p.Main == engine.SystemMain && !l.hex {
		switch p.Sub {
		case engine.SubError:
			if code, about, text, ok := l.parseError(p.Body); ok {
				main, sub := codec.Split(about)
				return fmt.Sprintf("%s ERROR %d %v about %d/%d: %s", head, code, code, main, sub, readable([]byte(text)))
			}
		case engine.SubGoAway:
			if len(p.Body) >= 4 {
				text := fmt.Sprintf("%s GOAWAY within %v", head, time.Duration(l.order.Uint32(p.Body))*time.Millisecond)
				if len(p.Body) > 4 {
					text += " to " + readable(p.Body[4:])
				}
				return text
			}
		case engine.SubPong:
			head += " PONG"
		}
	}
	switch {
	case len(p.Body) == 0:
		return head
	case l.hex:
		return head + " " + hex.EncodeToString(p.Body)
	default:
		return head + " " + readable(p.Body)
	}
}

// readable returns b as text if it is printable, else quoted, else in hexadecimal.
func readable(b []byte) string {
	if !utf8.Valid(b) {
		return "hex " + hex.EncodeToString(b)
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) {
			return strconv.Quote(string(b))
		}
	}
	return string(b)
}
