package dbasync

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	readBuffer = 64 << 10
	// maxMessage limits every message except DataRow, which the reader never holds completely, and
	// ErrorResponse and NoticeResponse, which are truncated.
	maxMessage = 1 << 20
	maxRow     = 1 << 30
)

// sink receives the messages of a wire.
type sink interface {
	message(typ byte, body []byte) error
	rowsArrived(b []byte, n int) error
}

// wire splits the bytes from a server into messages. It does no I/O.
type wire struct {
	buf     []byte
	r, w    int
	rowLeft int // bytes of a DataRow longer than the buffer that are still to come
	skip    int // bytes of an ignored message that are still to come
}

// space returns the buffer for the next bytes; it is never empty.
func (x *wire) space() []byte {
	switch {
	case x.r == x.w:
		x.r, x.w = 0, 0
		if len(x.buf) > readBuffer {
			x.buf = nil
		}
	case x.w == len(x.buf):
		x.w = copy(x.buf, x.buf[x.r:x.w])
		x.r = 0
	}
	if x.buf == nil {
		x.buf = make([]byte, readBuffer)
	}
	return x.buf[x.w:]
}

// feed passes the n bytes written to space, and what was left of earlier ones, to s.
func (x *wire) feed(n int, s sink) error {
	x.w += n
	for x.r < x.w {
		more, err := x.next(s)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// next handles one message, one run of rows or one piece; more is false if the rest has to wait for
// further bytes.
func (x *wire) next(s sink) (more bool, err error) {
	have := x.buf[x.r:x.w]
	switch {
	case x.rowLeft > 0:
		k := min(x.rowLeft, len(have))
		x.rowLeft -= k
		x.r += k
		return true, s.rowsArrived(have[:k], 0)
	case x.skip > 0:
		k := min(x.skip, len(have))
		x.skip -= k
		x.r += k
		return true, nil
	case len(have) < 5:
		return false, nil
	}
	typ, size := have[0], messageSize(have)
	if size < 5 || size > maxRow {
		return false, brokenf("message %q of %d bytes", typ, size)
	}
	if typ == 'D' {
		return x.rows(have, s)
	}
	if size > len(have) {
		return x.long(typ, size, have, s)
	}
	x.r += size
	return true, s.message(typ, have[5:size])
}

// messageSize returns the length of the message at the head of b in bytes, its type included.
func messageSize(b []byte) int { return int(int32(binary.BigEndian.Uint32(b[1:]))) + 1 }

// rows handles all complete DataRows at the head at once, so that they are copied in one piece; or
// begins one that is longer than the buffer.
func (x *wire) rows(have []byte, s sink) (bool, error) {
	at, n := 0, 0
	for len(have)-at >= 5 && have[at] == 'D' {
		size := messageSize(have[at:])
		if size < 7 || size > maxRow {
			return false, brokenf("DataRow of %d bytes", size)
		}
		if size > len(have)-at {
			break
		}
		at += size
		n++
	}
	if n > 0 {
		x.r += at
		return true, s.rowsArrived(have[:at], n)
	}
	size := messageSize(have)
	if size <= len(x.buf) {
		return false, nil
	}
	x.r = x.w
	x.rowLeft = size - len(have)
	return true, s.rowsArrived(have, 1)
}

// long handles a message that is not complete.
func (x *wire) long(typ byte, size int, have []byte, s sink) (bool, error) {
	switch {
	case size <= len(x.buf):
		return false, nil
	case typ == 'N' || typ == 'S' || typ == 'A':
		x.r, x.skip = x.w, size-len(have)
		return true, nil
	case typ == 'E' && len(have) == len(x.buf):
		x.r, x.skip = x.w, size-len(have)
		return true, s.message(typ, have[5:])
	case typ == 'E':
		return false, nil // the buffer fills first
	case size > maxMessage:
		return false, brokenf("message %q of %d bytes", typ, size)
	}
	buf := make([]byte, size)
	x.w = copy(buf, have)
	x.r, x.buf = 0, buf
	return false, nil
}

// parseError reads an ErrorResponse; fields that are truncated or malformed are omitted.
func parseError(b []byte) *pgconn.PgError {
	pg := &pgconn.PgError{}
	for len(b) > 1 && b[0] != 0 {
		code := b[0]
		end := bytes.IndexByte(b[1:], 0)
		if end < 0 {
			end = len(b) - 1
		}
		setErrorField(pg, code, string(b[1:1+end]))
		b = b[min(len(b), end+2):]
	}
	if pg.SeverityUnlocalized == "" {
		pg.SeverityUnlocalized = pg.Severity
	}
	return pg
}

func setErrorField(pg *pgconn.PgError, code byte, v string) {
	number := func() int32 { n, _ := strconv.ParseInt(v, 10, 32); return int32(n) }
	switch code {
	case 'S':
		pg.Severity = v
	case 'V':
		pg.SeverityUnlocalized = v
	case 'C':
		pg.Code = v
	case 'M':
		pg.Message = v
	case 'D':
		pg.Detail = v
	case 'H':
		pg.Hint = v
	case 'P':
		pg.Position = number()
	case 'p':
		pg.InternalPosition = number()
	case 'q':
		pg.InternalQuery = v
	case 'W':
		pg.Where = v
	case 's':
		pg.SchemaName = v
	case 't':
		pg.TableName = v
	case 'c':
		pg.ColumnName = v
	case 'd':
		pg.DataTypeName = v
	case 'n':
		pg.ConstraintName = v
	case 'F':
		pg.File = v
	case 'L':
		pg.Line = number()
	case 'R':
		pg.Routine = v
	}
}

// parseParams reads a ParameterDescription.
func parseParams(b []byte) ([]uint32, error) {
	if len(b) < 2 {
		return nil, brokenf("ParameterDescription of %d bytes", len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) != 2+4*n {
		return nil, brokenf("ParameterDescription of %d bytes for %d", len(b), n)
	}
	oids := make([]uint32, n)
	for i := range oids {
		oids[i] = binary.BigEndian.Uint32(b[2+4*i:])
	}
	return oids, nil
}

// parseFields reads a RowDescription.
func parseFields(b []byte) ([]pgconn.FieldDescription, error) {
	if len(b) < 2 {
		return nil, brokenf("RowDescription of %d bytes", len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > len(b)/19 {
		return nil, brokenf("RowDescription of %d bytes for %d", len(b), n)
	}
	fields := make([]pgconn.FieldDescription, n)
	for i := range fields {
		end := bytes.IndexByte(b, 0)
		if end < 0 || len(b) < end+19 {
			return nil, brokenf("RowDescription ends early")
		}
		f := &fields[i]
		f.Name = string(b[:end])
		b = b[end+1:]
		f.TableOID = binary.BigEndian.Uint32(b)
		f.TableAttributeNumber = binary.BigEndian.Uint16(b[4:])
		f.DataTypeOID = binary.BigEndian.Uint32(b[6:])
		f.DataTypeSize = int16(binary.BigEndian.Uint16(b[10:]))
		f.TypeModifier = int32(binary.BigEndian.Uint32(b[12:]))
		f.Format = int16(binary.BigEndian.Uint16(b[16:]))
		b = b[18:]
	}
	if len(b) != 0 {
		return nil, brokenf("RowDescription with %d bytes more", len(b))
	}
	return fields, nil
}
