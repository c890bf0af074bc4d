package serial

import (
	"fmt"
	"reflect"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Protobuf encodes and decodes generated messages: the request and reply types of a service are
// pointers to them (*pb.Sum). Unknown fields are dropped.
func Protobuf(l Limits) Serializer { return protobufSerializer{l.withDefaults()} }

type protobufSerializer struct{ lim Limits }

func (protobufSerializer) Name() string { return "protobuf" }

// message returns the message that v is or points to, and allocates it if the pointer there is nil.
func message(v any) (proto.Message, error) {
	if m, ok := v.(proto.Message); ok {
		return m, nil
	}
	p := reflect.ValueOf(v)
	if p.Kind() == reflect.Pointer && !p.IsNil() && p.Elem().Kind() == reflect.Pointer {
		p = p.Elem()
		if p.IsNil() {
			p.Set(reflect.New(p.Type().Elem()))
		}
		if m, ok := p.Interface().(proto.Message); ok {
			return m, nil
		}
	}
	return nil, fmt.Errorf("serial: protobuf: %T is no message", v)
}

func (protobufSerializer) Append(dst []byte, v any) ([]byte, error) {
	m, err := message(v)
	if err != nil {
		return dst, err
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
	if err != nil {
		return dst, err
	}
	return b, nil
}

func (s protobufSerializer) Decode(body []byte, v any) error {
	if len(body) > s.lim.MaxSize {
		return bad("%d bytes", len(body))
	}
	m, err := message(v)
	if err != nil {
		return err
	}
	if err := checkProtobuf(body, s.lim); err != nil {
		return err
	}
	o := proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: s.lim.MaxDepth}
	if err := o.Unmarshal(body, m); err != nil {
		return bad("protobuf: %v", err)
	}
	return nil
}

// checkProtobuf walks the outermost fields and the groups in them, which the
// library would skip recursively. What is length-delimited can't be told from
// a string here: the library's own limit of depth holds for that.
func checkProtobuf(b []byte, lim Limits) error {
	depth := 0
	for items := 0; len(b) > 0; {
		if items++; items > lim.MaxItems {
			return bad("protobuf: too many fields")
		}
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return bad("protobuf: %v", protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.StartGroupType:
			depth++
			n = 0
		case protowire.EndGroupType:
			depth--
			n = 0
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		switch {
		case n < 0:
			return bad("protobuf: %v", protowire.ParseError(n))
		case depth < 0 || depth > lim.MaxDepth:
			return bad("protobuf: groups nested too deep")
		}
		b = b[n:]
	}
	return nil
}
