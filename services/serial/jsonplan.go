package serial

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"sync"
)

// decode reads a value of one type. It sets v only where it succeeds, and sets
// all of it.
type decode func(d *jsonReader, v reflect.Value) error

var (
	decoders        sync.Map // reflect.Type to decode
	rawMessage      = reflect.TypeFor[json.RawMessage]()
	jsonNumber      = reflect.TypeFor[json.Number]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decoderOf returns the type's decode; it is made once.
func decoderOf(t reflect.Type) decode {
	if fn, ok := decoders.Load(t); ok {
		return fn.(decode)
	}
	// What refers to t while t's is being made finds this, and waits.
	var made sync.WaitGroup
	var fn decode
	made.Add(1)
	if other, ok := decoders.LoadOrStore(t, decode(func(d *jsonReader, v reflect.Value) error {
		made.Wait()
		return fn(d, v)
	})); ok {
		return other.(decode)
	}
	fn = makeDecoder(t)
	made.Done()
	decoders.Store(t, fn)
	return fn
}

func makeDecoder(t reflect.Type) decode {
	switch {
	case t == rawMessage:
		return decodeRaw
	case t == jsonNumber:
		return decodeNumber
	case reflect.PointerTo(t).Implements(jsonUnmarshaler):
		return decodeUnmarshaler
	case reflect.PointerTo(t).Implements(textUnmarshaler) && t.Kind() != reflect.Pointer:
		return decodeText
	}
	switch t.Kind() {
	case reflect.Bool:
		return decodeBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return decodeInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return decodeUint
	case reflect.Float32, reflect.Float64:
		return decodeFloat
	case reflect.String:
		return decodeString
	case reflect.Pointer:
		return decodePointer(t)
	case reflect.Slice:
		return decodeSlice(t)
	case reflect.Array:
		return decodeArray(t)
	case reflect.Map:
		return decodeMap(t)
	case reflect.Struct:
		return decodeStruct(t)
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return decodeAny
		}
	}
	return func(*jsonReader, reflect.Value) error {
		return fmt.Errorf("serial: json: can't decode into %v", t)
	}
}

func decodeRaw(d *jsonReader, v reflect.Value) error {
	raw, err := d.raw()
	if err == nil {
		v.SetBytes(append([]byte(nil), raw...))
	}
	return err
}

func decodeNumber(d *jsonReader, v reflect.Value) error {
	text, _, err := d.number()
	if err == nil {
		v.SetString(string(text))
	}
	return err
}

func decodeUnmarshaler(d *jsonReader, v reflect.Value) error {
	raw, err := d.raw()
	if err != nil {
		return err
	}
	v.SetZero()
	if err := v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(raw); err != nil {
		return bad("json: %v", err)
	}
	return nil
}

func decodeText(d *jsonReader, v reflect.Value) error {
	s, err := d.string()
	if err != nil {
		return err
	}
	v.SetZero()
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(s); err != nil {
		return bad("json: %v", err)
	}
	return nil
}

func decodeBool(d *jsonReader, v reflect.Value) error {
	text := "false"
	if d.peek() == 't' {
		text = "true"
	}
	if err := d.literal(text); err != nil {
		return d.bad("no bool")
	}
	v.SetBool(text == "true")
	return nil
}

// whole reads an integer's text.
func (d *jsonReader) whole() ([]byte, error) {
	text, whole, err := d.number()
	if err == nil && !whole {
		err = d.bad("not an integer")
	}
	return text, err
}

func decodeInt(d *jsonReader, v reflect.Value) error {
	text, err := d.whole()
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(string(text), 10, v.Type().Bits())
	if err != nil {
		return d.bad("integer out of range")
	}
	v.SetInt(n)
	return nil
}

func decodeUint(d *jsonReader, v reflect.Value) error {
	text, err := d.whole()
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(string(text), 10, v.Type().Bits())
	if err != nil && string(text) != "-0" {
		return d.bad("integer out of range")
	}
	v.SetUint(n)
	return nil
}

func decodeFloat(d *jsonReader, v reflect.Value) error {
	text, _, err := d.number()
	if err != nil {
		return err
	}
	f, err := strconv.ParseFloat(string(text), v.Type().Bits())
	if err != nil {
		return d.bad("number out of range")
	}
	v.SetFloat(f)
	return nil
}

func decodeString(d *jsonReader, v reflect.Value) error {
	s, err := d.string()
	if err == nil {
		v.SetString(string(s))
	}
	return err
}

func decodePointer(t reflect.Type) decode {
	elem := decoderOf(t.Elem())
	return func(d *jsonReader, v reflect.Value) error {
		if d.null() {
			v.SetZero()
			return nil
		}
		p := reflect.New(t.Elem())
		if err := elem(d, p.Elem()); err != nil {
			return err
		}
		v.Set(p)
		return nil
	}
}

func decodeSlice(t reflect.Type) decode {
	if t.Elem().Kind() == reflect.Uint8 {
		return decodeBytes
	}
	elem := decoderOf(t.Elem())
	return func(d *jsonReader, v reflect.Value) error {
		if d.null() {
			v.SetZero()
			return nil
		}
		s := reflect.MakeSlice(t, 0, 0)
		err := d.array(func(int) error {
			e := reflect.New(t.Elem()).Elem()
			if err := elem(d, e); err != nil {
				return err
			}
			s = reflect.Append(s, e)
			return nil
		})
		if err == nil {
			v.Set(s)
		}
		return err
	}
}

// decodeBytes reads base64, as encoding/json writes it.
func decodeBytes(d *jsonReader, v reflect.Value) error {
	if d.null() {
		v.SetZero()
		return nil
	}
	s, err := d.string()
	if err != nil {
		return err
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Decode(b, s)
	if err != nil {
		return d.bad("bad base64")
	}
	v.SetBytes(b[:n])
	return nil
}

func decodeArray(t reflect.Type) decode {
	elem := decoderOf(t.Elem())
	return func(d *jsonReader, v reflect.Value) error {
		n := 0
		err := d.array(func(i int) error {
			if i >= t.Len() {
				return d.bad("array too long")
			}
			n++
			return elem(d, v.Index(i))
		})
		if err == nil && n < t.Len() {
			err = d.bad("array too short")
		}
		return err
	}
}

func decodeMap(t reflect.Type) decode {
	if t.Key().Kind() != reflect.String {
		return func(*jsonReader, reflect.Value) error {
			return fmt.Errorf("serial: json: can't decode into %v: keys must be strings", t)
		}
	}
	elem := decoderOf(t.Elem())
	return func(d *jsonReader, v reflect.Value) error {
		if d.null() {
			v.SetZero()
			return nil
		}
		m := reflect.MakeMap(t)
		err := d.object(func(key []byte) error {
			k := reflect.ValueOf(string(key)).Convert(t.Key())
			e := reflect.New(t.Elem()).Elem()
			if err := elem(d, e); err != nil {
				return err
			}
			m.SetMapIndex(k, e)
			return nil
		})
		if err == nil {
			v.Set(m)
		}
		return err
	}
}

// decodeAny reads what encoding/json would: nil, bool, float64, string, []any,
// map[string]any; and json.Number for a whole number that a float64 does not hold.
func decodeAny(d *jsonReader, v reflect.Value) error {
	x, err := d.any()
	if err != nil {
		return err
	}
	if x == nil {
		v.SetZero()
		return nil
	}
	v.Set(reflect.ValueOf(x))
	return nil
}

func (d *jsonReader) any() (any, error) {
	switch d.peek() {
	case '{':
		m := map[string]any{}
		err := d.object(func(key []byte) error {
			k := string(key)
			v, err := d.any()
			m[k] = v
			return err
		})
		return m, err
	case '[':
		s := []any{}
		err := d.array(func(int) error {
			e, err := d.any()
			s = append(s, e)
			return err
		})
		return s, err
	case '"':
		s, err := d.string()
		return string(s), err
	case 't':
		return true, d.literal("true")
	case 'f':
		return false, d.literal("false")
	case 'n':
		return nil, d.literal("null")
	}
	text, whole, err := d.number()
	if err != nil {
		return nil, err
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return nil, d.bad("number out of range")
	}
	// Fifteen digits fit a float64, whatever they are.
	if whole && len(text) > 15 && strconv.FormatFloat(f, 'f', -1, 64) != string(text) {
		return json.Number(text), nil
	}
	return f, nil
}
