package pgfault

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// packet is a message with its bytes as they came.
type packet struct {
	Message
	raw []byte
}

// source is one direction's messages. io.EOF is its end between two of them.
type source interface{ next() (packet, error) }

// maxMessage bounds one message, in bytes.
const maxMessage = 64 << 20

// frame reads the bytes of one message: head bytes before its length, which counts itself.
func frame(r *bufio.Reader, head int) ([]byte, error) {
	b := make([]byte, head+4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(b[head:]))
	if n < 4 || n > maxMessage {
		return nil, fmt.Errorf("pgfault: a message of %d bytes", n)
	}
	raw := append(b, make([]byte, n-4)...)
	_, err := io.ReadFull(r, raw[head+4:])
	return raw, err
}

// upward reads what the client sends.
type upward struct {
	l       *link
	r       *bufio.Reader
	feed    bytes.Buffer // the backend reads one message after another from it
	backend *pgproto3.Backend
	started bool
}

func newUpward(l *link) *upward {
	u := &upward{l: l, r: bufio.NewReaderSize(l.client, 32<<10)}
	u.reset()
	return u
}

func (u *upward) reset() {
	u.feed.Reset()
	u.backend = pgproto3.NewBackend(&u.feed, io.Discard)
}

func (u *upward) next() (packet, error) {
	if !u.started {
		return u.startup()
	}
	raw, err := frame(u.r, 1)
	if err != nil {
		return packet{}, err
	}
	if raw[0] == 'p' { // what it is depends on what the server has asked for
		if err := u.backend.SetAuthType(u.l.auth.Load()); err != nil {
			return packet{}, err
		}
	}
	u.feed.Write(raw)
	m, err := u.backend.Receive()
	if err != nil {
		u.reset()
		m = nil
	}
	return u.l.packet(Up, m, raw), nil
}

// startup reads the first message, and says no to encryption.
func (u *upward) startup() (packet, error) {
	for {
		raw, err := frame(u.r, 0)
		if err != nil {
			return packet{}, err
		}
		u.feed.Write(raw)
		m, err := u.backend.ReceiveStartupMessage()
		if err != nil && isCancel(raw) { // one without a key, by a client that was cut before it got one
			m, err = &pgproto3.CancelRequest{}, nil
		}
		if err != nil {
			return packet{}, err
		}
		switch m.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := u.l.client.Write([]byte{'N'}); err != nil {
				return packet{}, err
			}
			continue
		}
		u.started = true
		return u.l.packet(Up, m, raw), nil
	}
}

// cancelCode stands where a StartupMessage has its version.
const cancelCode = 1234<<16 | 5678

func isCancel(raw []byte) bool {
	return len(raw) >= 8 && binary.BigEndian.Uint32(raw[4:]) == cancelCode
}

// downward reads what the server sends.
type downward struct {
	l        *link
	r        *bufio.Reader
	feed     bytes.Buffer
	frontend *pgproto3.Frontend
}

func newDownward(l *link) *downward {
	d := &downward{l: l, r: bufio.NewReaderSize(l.server, 32<<10)}
	d.reset()
	return d
}

func (d *downward) reset() {
	d.feed.Reset()
	d.frontend = pgproto3.NewFrontend(&d.feed, io.Discard)
}

func (d *downward) next() (packet, error) {
	raw, err := frame(d.r, 1)
	if err != nil {
		return packet{}, err
	}
	d.feed.Write(raw)
	m, err := d.frontend.Receive()
	if err != nil {
		d.reset()
		m = nil
	}
	if err == nil && raw[0] == 'R' {
		d.l.auth.Store(d.frontend.GetAuthType()) // before the client can answer
	}
	return d.l.packet(Down, m, raw), nil
}

// packet names m; nil: pgproto3 could not read it.
func (l *link) packet(d Direction, m any, raw []byte) packet {
	name := Unreadable
	if m != nil {
		name = strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3.")
	}
	return packet{Message{Dir: d, Conn: l.conn, Type: name, Text: textOf(m), Size: len(raw)}, raw}
}

func textOf(m any) string {
	switch m := m.(type) {
	case *pgproto3.Query:
		return clip(m.String)
	case *pgproto3.Parse:
		return clip(m.Query)
	case *pgproto3.CommandComplete:
		return string(m.CommandTag)
	case *pgproto3.ErrorResponse:
		return m.Severity + " " + m.Code
	case *pgproto3.ReadyForQuery:
		return string(m.TxStatus)
	}
	return ""
}

func clip(sql string) string { return sql[:min(len(sql), 40)] }
