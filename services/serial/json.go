package serial

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sync"
)

// JSON decodes more strictly than encoding/json, which ignores the case of keys, accepts null for a
// number, and repairs invalid UTF-8. Here:
//
//   - keys are case-sensitive; unknown ones are skipped; of duplicates the last
//     one counts, whatever the others were;
//   - a field that is missing is an error, unless it is a pointer or its tag
//     says omitempty or omitzero;
//   - null is for pointers, slices, maps, any, json.RawMessage and types with
//     an UnmarshalJSON of their own;
//   - in any, a whole number that a float64 would round is a json.Number, other
//     numbers are float64;
//   - an integer is written without fraction and exponent, and in range;
//   - bytes must be valid UTF-8, no escape half a surrogate pair, with nothing
//     behind the value.
//
// encoding/json/v2 would accept missing fields, null for anything, nesting up to 10,000 and any
// number of values, merge duplicates into maps and any, refuse -0 for an unsigned integer and round
// whole numbers in any; therefore this package has its own decoder.
//
// The `json:"name"` tags are those of encoding/json (without the option "string"), which also does
// the encoding, without its HTML escapes.
func JSON(l Limits) Serializer { return jsonSerializer{l.withDefaults()} }

type jsonSerializer struct{ lim Limits }

func (jsonSerializer) Name() string { return "json" }

// jsonWriter is a pooled encoder with its buffer.
type jsonWriter struct {
	buf bytes.Buffer
	enc *json.Encoder
}

var jsonWriters = sync.Pool{New: func() any {
	w := &jsonWriter{}
	w.enc = json.NewEncoder(&w.buf)
	w.enc.SetEscapeHTML(false)
	return w
}}

var jsonReaders = sync.Pool{New: func() any { return new(jsonReader) }}

// maxPooled is the largest buffer that is kept for the next one, in bytes.
const maxPooled = 64 << 10

func (jsonSerializer) Append(dst []byte, v any) ([]byte, error) {
	w := jsonWriters.Get().(*jsonWriter)
	w.buf.Reset()
	if err := w.enc.Encode(v); err != nil {
		return dst, err // w may be spoilt
	}
	b := w.buf.Bytes()
	dst = append(dst, b[:len(b)-1]...) // Encode ends with a new line
	if w.buf.Cap() <= maxPooled {
		jsonWriters.Put(w)
	}
	return dst, nil
}

func (s jsonSerializer) Decode(body []byte, v any) error {
	if len(body) > s.lim.MaxSize {
		return bad("%d bytes", len(body))
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return &json.InvalidUnmarshalError{Type: reflect.TypeOf(v)}
	}
	d := jsonReaders.Get().(*jsonReader)
	defer func() {
		d.b = nil
		jsonReaders.Put(d)
	}()
	*d = jsonReader{b: body, lim: s.lim}
	d.space()
	if err := decoderOf(rv.Type().Elem())(d, rv.Elem()); err != nil {
		return err
	}
	d.space()
	if d.i != len(d.b) {
		return d.bad("bytes behind the value")
	}
	return nil
}
