package dbasync

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	maxParams = math.MaxUint16
	fmtText   = 0
	fmtBinary = 1
)

// encoder encodes arguments. It is not safe for concurrent use.
type encoder struct {
	m     *pgtype.Map
	eqb   pgx.ExtendedQueryBuilder
	types int64 // the version of the registry in m
}

type encoders struct {
	pool  sync.Pool
	types typeRegistry
}

func (p *encoders) init(newMap func() *pgtype.Map) {
	p.pool.New = func() any { return &encoder{m: newMap()} }
}

func (p *encoders) get() *encoder {
	e := p.pool.Get().(*encoder)
	if e.types != p.types.version.Load() {
		p.types.sync(e)
	}
	return e
}

func (p *encoders) put(e *encoder) { p.pool.Put(e) }

// appendInt16 and appendInt32 use network byte order.
func appendInt16(b []byte, v int) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }
func appendInt32(b []byte, v int) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

// appendBind appends a Bind of the unnamed portal up to the result formats, which belong to the
// description and are appended by appendTail. Plain types don't need a type map.
func appendBind(dst []byte, name string, oids []uint32, args []any, encs *encoders) ([]byte, error) {
	if len(args) != len(oids) {
		return dst, fmt.Errorf("dbasync: got %d arguments, the statement has %d parameters", len(args), len(oids))
	}
	start := len(dst)
	dst = appendBindHead(dst, name)
	head := len(dst)
	dst = appendInt16(dst, 1)
	dst = appendInt16(dst, fmtBinary)
	dst = appendInt16(dst, len(args))
	for i, a := range args {
		var ok bool
		if dst, ok = appendQuick(dst, oids[i], a); !ok {
			return appendThroughMap(dst[:head], start, oids, args, encs)
		}
	}
	return dst, nil
}

// appendBindHead leaves the length open; finishBind sets it.
func appendBindHead(dst []byte, name string) []byte {
	dst = append(dst, 'B', 0, 0, 0, 0, 0)
	dst = append(dst, name...)
	return append(dst, 0)
}

// finishBind appends the result formats and the Execute of d, and closes the Bind that began at
// start. With limited the server stops after Config.MaxResultRows+1 rows.
func finishBind(dst []byte, start int, d *description, limited bool) []byte {
	tail := d.tail
	if limited {
		tail = d.tailLimited
	}
	bindEnd := len(dst) + len(tail) - execLen
	binary.BigEndian.PutUint32(dst[start+1:], uint32(bindEnd-start-1))
	return append(dst, tail...)
}

// appendQuick encodes plain types in binary without a type map; ok is false for any other
// combination of type and value.
func appendQuick(dst []byte, oid uint32, arg any) (_ []byte, ok bool) {
	switch v := arg.(type) {
	case nil:
		return appendInt32(dst, -1), true
	case int:
		return appendInteger(dst, oid, int64(v))
	case int64:
		return appendInteger(dst, oid, v)
	case int32:
		return appendInteger(dst, oid, int64(v))
	case string:
		if oid == pgtype.TextOID || oid == pgtype.VarcharOID || oid == pgtype.BPCharOID {
			return append(appendInt32(dst, len(v)), v...), true
		}
	case []byte:
		if oid == pgtype.ByteaOID && v != nil {
			return append(appendInt32(dst, len(v)), v...), true
		}
	case bool:
		if oid == pgtype.BoolOID {
			b := byte(0)
			if v {
				b = 1
			}
			return append(dst, 0, 0, 0, 1, b), true
		}
	case float64:
		if oid == pgtype.Float8OID {
			return binary.BigEndian.AppendUint64(appendInt32(dst, 8), math.Float64bits(v)), true
		}
	}
	return dst, false
}

func appendInteger(dst []byte, oid uint32, v int64) ([]byte, bool) {
	switch {
	case oid == pgtype.Int4OID && v == int64(int32(v)):
		return appendInt32(appendInt32(dst, 4), int(v)), true
	case oid == pgtype.Int8OID:
		return binary.BigEndian.AppendUint64(appendInt32(dst, 8), uint64(v)), true
	case oid == pgtype.Int2OID && v == int64(int16(v)):
		return appendInt16(appendInt32(dst, 2), int(v)), true
	}
	return dst, false
}

// appendThroughMap encodes any argument as pgx does. A panic of a value's own method is returned as
// an error.
func appendThroughMap(dst []byte, start int, oids []uint32, args []any, encs *encoders) (_ []byte, err error) {
	e := encs.get()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("dbasync: encoding an argument panicked: %v", p)
			return
		}
		encs.put(e)
	}()
	// A clone, so that the caller's variadic slice can stay on its stack.
	if err := e.eqb.Build(e.m, &pgconn.StatementDescription{ParamOIDs: oids}, slices.Clone(args)); err != nil {
		return dst[:start], fmt.Errorf("dbasync: %w", err)
	}
	dst = appendInt16(dst, len(e.eqb.ParamFormats))
	for _, f := range e.eqb.ParamFormats {
		dst = appendInt16(dst, int(f))
	}
	dst = appendInt16(dst, len(e.eqb.ParamValues))
	for _, v := range e.eqb.ParamValues {
		if v == nil {
			dst = appendInt32(dst, -1)
			continue
		}
		dst = append(appendInt32(dst, len(v)), v...)
	}
	return dst, nil
}

// execLen is the length of an Execute message of the unnamed portal, in bytes.
const execLen = 10

func appendExecute(dst []byte, maxRows int) []byte {
	dst = append(dst, 'E', 0, 0, 0, 9, 0)
	return appendInt32(dst, maxRows)
}

// appendSimple appends Bind and Execute of a statement without parameters.
func appendSimple(dst []byte, name string) []byte {
	start := len(dst)
	dst = appendBindHead(dst, name)
	dst = append(dst, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-start-1))
	return appendExecute(dst, 0)
}

func appendClose(dst []byte, name string) []byte {
	dst = append(dst, 'C')
	dst = appendInt32(dst, 4+1+len(name)+1)
	dst = append(append(dst, 'S'), name...)
	return append(dst, 0)
}

func appendParse(dst []byte, name, sql string, oids []uint32) []byte {
	dst = append(dst, 'P')
	dst = appendInt32(dst, 4+len(name)+1+len(sql)+1+2+4*len(oids))
	dst = append(append(dst, name...), 0)
	dst = append(append(dst, sql...), 0)
	dst = appendInt16(dst, len(oids))
	for _, o := range oids {
		dst = binary.BigEndian.AppendUint32(dst, o)
	}
	return dst
}

func appendDescribe(dst []byte, name string) []byte {
	dst = append(dst, 'D')
	dst = appendInt32(dst, 4+1+len(name)+1)
	dst = append(append(dst, 'S'), name...)
	return append(dst, 0)
}

func appendSync(dst []byte) []byte { return append(dst, 'S', 0, 0, 0, 4) }

// newDescription fixes the result formats and the end of every Bind of the shape.
func newDescription(oids []uint32, fields []pgconn.FieldDescription, m *pgtype.Map, maxRows int) *description {
	d := &description{oids: oids, fields: fields, formatAll: -1}
	allBinary := true
	for i := range fields {
		fields[i].Format = m.FormatCodeForOID(fields[i].DataTypeOID)
		allBinary = allBinary && fields[i].Format == fmtBinary
	}
	var formats []byte
	switch {
	case len(fields) == 0:
		formats = appendInt16(nil, 0)
	case allBinary:
		d.formatAll = fmtBinary
		formats = appendInt16(appendInt16(nil, 1), fmtBinary)
	default:
		formats = appendInt16(nil, len(fields))
		for i := range fields {
			formats = appendInt16(formats, int(fields[i].Format))
		}
	}
	limit := 0
	if maxRows > 0 {
		limit = maxRows + 1
	}
	d.tail = appendExecute(append([]byte(nil), formats...), 0)
	d.tailLimited = appendExecute(append([]byte(nil), formats...), limit)
	return d
}

// bindParams reads the parameters from a Bind built above; the returned slices are parts of msg.
func bindParams(msg []byte, name string) (values [][]byte, formats []int16) {
	b := msg[5+1+len(name)+1:]
	u16 := func() int { n := int(binary.BigEndian.Uint16(b)); b = b[2:]; return n }
	for n := u16(); n > 0; n-- {
		formats = append(formats, int16(u16()))
	}
	for n := u16(); n > 0; n-- {
		size := int32(binary.BigEndian.Uint32(b))
		b = b[4:]
		if size < 0 {
			values = append(values, nil)
			continue
		}
		values = append(values, b[:size:size])
		b = b[size:]
	}
	return values, formats
}

// cloneArgs copies args for a query whose shape is not described yet; byte slices, which callers
// reuse, are copied too.
func cloneArgs(args []any) ([]any, int) {
	out, size := make([]any, len(args)), 0
	for i, a := range args {
		switch v := a.(type) {
		case []byte:
			size += len(v)
			if v != nil {
				a = append(make([]byte, 0, len(v)), v...)
			}
		case string:
			size += len(v)
		default:
			if rv := reflect.ValueOf(a); rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() == reflect.Uint8 && !rv.IsNil() {
				c := reflect.MakeSlice(rv.Type(), rv.Len(), rv.Len())
				reflect.Copy(c, rv)
				a, size = c.Interface(), size+rv.Len()
			}
		}
		size += 16
		out[i] = a
	}
	return out, size
}
