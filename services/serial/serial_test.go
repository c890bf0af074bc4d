package serial_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"millrace/services/serial"
)

type inner struct {
	N int8   `json:"n"`
	S string `json:"s,omitempty"`
}

type embedded struct {
	E int `json:"e"`
}

type wide struct {
	embedded
	I    int             `json:"i"`
	U    uint32          `json:"u"`
	F    float64         `json:"f"`
	S    string          `json:"s"`
	B    bool            `json:"b"`
	Any  any             `json:"any"`
	Raw  json.RawMessage `json:"raw"`
	List []inner         `json:"list"`
	Map  map[string]int  `json:"map"`
	P    *inner          `json:"p"`
	Data []byte          `json:"data"`
	Time time.Time       `json:"time"`
	Pair [2]int          `json:"pair"`
	Self []wide          `json:"self,omitempty"`
	Skip int             `json:"-"`
	No   int             `json:"no,omitempty"`
}

func sample() wide {
	return wide{embedded: embedded{3}, I: -5, U: 1 << 31, F: 2.5, S: "h\"é\n<&>😀", B: true,
		Any: map[string]any{"k": []any{1.5, "x", nil, false}}, Raw: json.RawMessage(`{"a":[1,2]}`),
		List: []inner{{1, "a"}, {-128, ""}}, Map: map[string]int{"x": 1}, P: &inner{N: 7},
		Data: []byte{0, 255}, Time: time.Unix(1700000000, 5).UTC(), Pair: [2]int{4, 5},
		Self: []wide{}}
}

var strict = serial.JSON(serial.Limits{})

func TestJSONReadsWhatItWrites(t *testing.T) {
	in := sample()
	inside := sample()
	inside.Self = nil
	in.Self = append(in.Self, inside)
	b, err := strict.Append([]byte("prefix"), in)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(`\u003c`)) {
		t.Errorf("HTML escapes in %s", b)
	}
	var out wide
	if err := strict.Decode(b[len("prefix"):], &out); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
}

func TestJSONRefuses(t *testing.T) {
	type ab struct {
		A int  `json:"a"`
		B *int `json:"b"`
	}
	type of struct {
		V any     `json:"v"`
		F float64 `json:"f,omitempty"`
		U uint64  `json:"u,omitempty"`
		S string  `json:"s,omitempty"`
		L []int   `json:"l,omitempty"`
	}
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"plain", `{"a":1}`, true},
		{"spaces", " \t\r\n{ \"a\" : 1 , \"b\" : null } \n", true},
		{"unknown key", `{"x":{"y":[1,"a",{}]},"a":1}`, true},
		{"unknown keys of any case", `{"A":"x","a":1}`, true},
		{"last duplicate", `{"a":2,"a":1}`, true},
		{"last duplicate, ill-typed first", `{"a":"x","a":[{"a":1}],"a":1}`, true},
		{"an ill-typed last duplicate", `{"a":1,"a":"x"}`, false},
		{"an ill-formed first duplicate", `{"a":[1,"a":1}`, false},
		{"escaped key", `{"\u0061":1}`, true},
		{"negative zero", `{"a":1,"b":-0}`, true},
		{"empty", ``, false},
		{"space", `  `, false},
		{"missing", `{}`, false},
		{"other case", `{"A":1}`, false},
		{"null", `{"a":null}`, false},
		{"true", `{"a":true}`, false},
		{"fraction", `{"a":1.5}`, false},
		{"whole fraction", `{"a":1.0}`, false},
		{"exponent", `{"a":1e2}`, false},
		{"string", `{"a":"1"}`, false},
		{"overflow", `{"a":9223372036854775808}`, false},
		{"leading zero", `{"a":01}`, false},
		{"plus", `{"a":+1}`, false},
		{"hex", `{"a":0x1}`, false},
		{"minus", `{"a":-}`, false},
		{"trailing bytes", `{"a":1}x`, false},
		{"two values", `{"a":1}{"a":1}`, false},
		{"nul behind", "{\"a\":1}\x00", false},
		{"trailing comma", `{"a":1,}`, false},
		{"leading comma", `{,"a":1}`, false},
		{"no comma", `{"a":1 "b":2}`, false},
		{"no colon", `{"a" 1}`, false},
		{"no end", `{"a":1`, false},
		{"single quotes", `{'a':1}`, false},
		{"comment", `{"a":1/**/}`, false},
		{"array", `[1]`, false},
		{"null body", `null`, false},
		{"number", `1`, false},
		{"byte order mark", "\xef\xbb\xbf{\"a\":1}", false},
		{"invalid UTF-8 in a key", "{\"a\":1,\"\xff\":1}", false},
		{"invalid UTF-8 in a value", "{\"a\":1,\"x\":\"\xc3\x28\"}", false},
		{"overlong UTF-8", "{\"a\":1,\"x\":\"\xc0\xaf\"}", false},
		{"surrogate in UTF-8", "{\"a\":1,\"x\":\"\xed\xa0\x80\"}", false},
		{"invalid UTF-8 after an escape", "{\"a\":1,\"x\":\"\\n\xff\"}", false},
		{"control character", "{\"a\":1,\"x\":\"a\nb\"}", false},
		{"control character after an escape", "{\"a\":1,\"x\":\"\\na\nb\"}", false},
		{"bad escape", `{"a":1,"x":"\x"}`, false},
		{"short escape", `{"a":1,"x":"\u12"}`, false},
		{"bad hex", `{"a":1,"x":"\u12g4"}`, false},
		{"half a surrogate", `{"a":1,"x":"\ud800"}`, false},
		{"half a surrogate, then text", `{"a":1,"x":"\ud800abcdef"}`, false},
		{"two high halves", `{"a":1,"x":"\ud83d\ud83d\ude00"}`, false},
		{"the low half alone", `{"a":1,"x":"\ude00"}`, false},
		{"bad literal", `{"a":1,"x":tru}`, false},
		{"NaN", `{"a":1,"x":NaN}`, false},
		{"32 deep", `{"a":1,"x":` + deep(31) + `}`, true},
		{"33 deep", `{"a":1,"x":` + deep(32) + `}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v ab
			err := strict.Decode([]byte(c.body), &v)
			if (err == nil) != c.ok {
				t.Errorf("%s: got %+v, %v", c.body, v, err)
			}
			if err != nil && !errors.Is(err, serial.ErrBody) {
				t.Errorf("%v: want an ErrBody", err)
			}
			if err == nil && v.A != 1 {
				t.Errorf("%s: got %+v", c.body, v)
			}
		})
	}
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"any null is there", `{"v":null}`, true},
		{"any missing", `{}`, false},
		{"any 31 more", `{"v":` + deep(31) + `}`, true},
		{"any 32 more", `{"v":` + deep(32) + `}`, false},
		{"any overflow", `{"v":1e999}`, false},
		{"float", `{"v":0,"f":1}`, true},
		{"float overflow", `{"v":0,"f":1e999}`, false},
		{"float null", `{"v":0,"f":null}`, false},
		{"uint", `{"v":0,"u":18446744073709551615}`, true},
		{"uint overflow", `{"v":0,"u":18446744073709551616}`, false},
		{"uint negative", `{"v":0,"u":-1}`, false},
		{"string null", `{"v":0,"s":null}`, false},
		{"string number", `{"v":0,"s":1}`, false},
		{"list null", `{"v":0,"l":null}`, true},
		{"list of null", `{"v":0,"l":[null]}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v of
			if err := strict.Decode([]byte(c.body), &v); (err == nil) != c.ok {
				t.Errorf("%s: got %+v, %v", c.body, v, err)
			}
		})
	}
}

func TestJSONStrings(t *testing.T) {
	for body, want := range map[string]string{
		`"\"\\\/\b\f\n\r\t"`:            "\"\\/\b\f\n\r\t",
		`"\u00e9\ud83d\ude00x"`:         "é😀x",
		`"` + "日本\u2028" + `"`:          "日本\u2028",
		`"` + "a\x7f" + `\u0000b` + `"`: "a\x7f\x00b",
	} {
		var got string
		if err := strict.Decode([]byte(body), &got); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", body, got, err, want)
		}
		var std string
		if err := json.Unmarshal([]byte(body), &std); err != nil || std != got {
			t.Errorf("%s: encoding/json reads %q, %v", body, std, err)
		}
	}
}

// Whatever the strict reader accepts, encoding/json accepts with the same result.
func TestJSONAgreesWithTheStandardLibrary(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) wide {
		w := sample()
		w.I = rapid.Int().Draw(t, "i")
		w.U = rapid.Uint32().Draw(t, "u")
		w.F = rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64).Draw(t, "f")
		w.S = rapid.String().Draw(t, "s")
		w.Data = rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		w.Map = rapid.MapOf(rapid.String(), rapid.Int()).Draw(t, "map")
		return w
	})
	rapid.Check(t, func(t *rapid.T) {
		in := gen.Draw(t, "w")
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var got, want wide
		if err := strict.Decode(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestJSONEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`1`, `1.0`, true}, {`1`, `10e-1`, true}, {`1`, `0.1E+1`, true}, {`-0`, `0.00e7`, true},
		{`100`, `1e2`, true}, {`9007199254740993`, `9007199254740992`, false},
		{`1e400`, `10e399`, true}, {`1e400`, `1e401`, false}, {`0.1`, `0.10000000000000000001`, false},
		{`1e99999999999999999999`, `10e99999999999999999998`, true}, {`1`, `-1`, false}, {`1`, `"1"`, false},
		{`"\u0041"`, `"A"`, true}, {`"a"`, `"b"`, false}, {`null`, `null`, true}, {`null`, `false`, false},
		{`{"a":1,"b":[1,{"c":2}]}`, ` { "b" : [1.0, {"c":2e0}], "a":1}`, true},
		{`{"a":1,"b":2}`, `{"a":1}`, false}, {`{"a":1}`, `{"b":1}`, false},
		{`{"a":1,"a":2}`, `{"a":2}`, true}, {`[1,2]`, `[2,1]`, false}, {`[]`, `{}`, false}, {`[]`, `[ ]`, true},
		{`x`, `x`, true}, {`x`, `y`, false}, {`1 2`, `1 3`, false},
	} {
		for _, turn := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if got := serial.JSONEqual([]byte(turn[0]), []byte(turn[1])); got != c.want {
				t.Errorf("%s and %s: got %v, want %v", turn[0], turn[1], got, c.want)
			}
		}
	}
}

func TestMessagePackReadsWhatItWrites(t *testing.T) {
	s := serial.MessagePack(serial.Limits{})
	in := sample()
	in.Any, in.Raw, in.Self = "x", nil, nil
	b, err := s.Append(nil, in)
	if err != nil {
		t.Fatal(err)
	}
	var out wide
	if err := s.Decode(b, &out); err != nil {
		t.Fatal(err)
	}
	out.Time = out.Time.UTC()
	out.Raw, out.Self = nil, nil
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
	for name, body := range map[string][]byte{
		"empty":          {},
		"trailing bytes": append(bytes.Clone(b), 0),
		"cut":            b[:len(b)-1],
		"bad UTF-8":      {0xa1, 0xff},
		"c1":             {0xc1},
	} {
		if err := s.Decode(body, &out); !errors.Is(err, serial.ErrBody) {
			t.Errorf("%s: got %v, want ErrBody", name, err)
		}
	}
}

func TestProtobufReadsWhatItWrites(t *testing.T) {
	s := serial.Protobuf(serial.Limits{})
	in, err := structpb.NewStruct(map[string]any{"a": 1.0, "b": []any{"x", nil}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Append([]byte("p"), in)
	if err != nil {
		t.Fatal(err)
	}
	var out *structpb.Struct
	if err := s.Decode(b[1:], &out); err != nil || !proto.Equal(in, out) {
		t.Errorf("got %v, %v, want %v", out, err, in)
	}
	if err := s.Decode(b[1:len(b)-1], &out); !errors.Is(err, serial.ErrBody) {
		t.Errorf("cut: got %v, want ErrBody", err)
	}
	for _, v := range []any{1, "x", struct{}{}, new(int)} {
		if _, err := s.Append(nil, v); err == nil {
			t.Errorf("%T: want an error", v)
		}
	}
}

func TestRawHandsBytesThrough(t *testing.T) {
	s := serial.Raw(serial.Limits{MaxSize: 3})
	var b []byte
	var text string
	body := []byte("abc")
	if err := errors.Join(s.Decode(body, &b), s.Decode(body, &text)); err != nil || &b[0] != &body[0] || text != "abc" {
		t.Errorf("got %q, %q, %v", b, text, err)
	}
	if err := s.Decode([]byte("abcd"), &b); !errors.Is(err, serial.ErrBody) {
		t.Errorf("over the limit: got %v", err)
	}
	if err := s.Decode(body, new(int)); err == nil {
		t.Error("an int: want an error")
	}
	for _, v := range []any{b, &b, text, &text} {
		if got, err := s.Append([]byte("x"), v); string(got) != "xabc" || err != nil {
			t.Errorf("%T: got %q, %v", v, got, err)
		}
	}
	if _, err := s.Append(nil, 1); err == nil {
		t.Error("append an int: want an error")
	}
}

// A small input that claims to be, or expands to, a large value is refused quickly and with little
// memory.
func TestBombsAreRefusedCheaply(t *testing.T) {
	lim := serial.Limits{MaxItems: 10000}
	nested := func(n int, unit ...byte) []byte { return bytes.Repeat(unit, n) }
	long := []byte(`{"a":` + strings.Repeat("[0],", 30000) + `0}`)
	for _, c := range []struct {
		name string
		s    serial.Serializer
		body []byte
		into any
	}{
		{"json: 100,000 brackets", serial.JSON(lim), nested(100000, '['), new(any)},
		{"json: 100,000 braces", serial.JSON(lim), []byte(strings.Repeat(`{"a":`, 100000)), new(any)},
		{"json: skipped brackets", serial.JSON(lim), append([]byte(`{"x":`), nested(100000, '[')...), new(inner)},
		{"json: many values", serial.JSON(lim), append([]byte("["), nested(50000, '0', ',')...), new(any)},
		{"json: no comma", serial.JSON(lim), long, new(any)},
		{"json: long number for an int", serial.JSON(lim), append([]byte(`{"n":`), nested(60000, '9')...), new(inner)},
		{"msgpack: array of 4G", serial.MessagePack(lim), []byte{0xdd, 0xff, 0xff, 0xff, 0xff}, new(any)},
		{"msgpack: array of 4G bytes", serial.MessagePack(lim), []byte{0xdd, 0xff, 0xff, 0xff, 0xff}, new([]int)},
		{"msgpack: map of 4G", serial.MessagePack(lim), []byte{0xdf, 0xff, 0xff, 0xff, 0xff}, new(any)},
		{"msgpack: string of 4G", serial.MessagePack(lim), []byte{0xdb, 0xff, 0xff, 0xff, 0xff, 'a'}, new(any)},
		{"msgpack: bytes of 4G", serial.MessagePack(lim), []byte{0xc6, 0xff, 0xff, 0xff, 0xff, 'a'}, new(any)},
		{"msgpack: ext of 4G", serial.MessagePack(lim), []byte{0xc9, 0xff, 0xff, 0xff, 0xff, 1}, new(any)},
		{"msgpack: 100,000 arrays", serial.MessagePack(lim), nested(100000, 0x91), new(any)},
		{"msgpack: many values", serial.MessagePack(lim), append([]byte{0xdc, 0xff, 0xff}, nested(65535, 0xc0)...), new(any)},
		{"protobuf: 50,000 groups", serial.Protobuf(lim), nested(50000, 0x0b), new(*wrapperspb.StringValue)},
		{"protobuf: nested messages", serial.Protobuf(lim), nestedLists(5000), new(*structpb.Value)},
		{"protobuf: groups in a message", serial.Protobuf(lim), proto3Groups(30000), new(*structpb.Value)},
		{"protobuf: a length of 4G", serial.Protobuf(lim), []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, new(*wrapperspb.StringValue)},
		{"protobuf: many fields", serial.Protobuf(lim), nested(30000, 0x0a, 0x00), new(*structpb.ListValue)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			_ = c.s.Decode(c.body, c.into) // what is made once
			took, n := time.Hour, uint64(math.MaxUint64)
			for range 10 { // the best of them: the machine may have been at something else
				runtime.ReadMemStats(&before)
				start := time.Now()
				err := c.s.Decode(c.body, c.into)
				took = min(took, time.Since(start))
				runtime.ReadMemStats(&after)
				n = min(n, after.TotalAlloc-before.TotalAlloc)
				if !errors.Is(err, serial.ErrBody) {
					t.Errorf("got %v, want ErrBody", err)
				}
			}
			if n > 1<<20 || took > 50*time.Millisecond {
				t.Errorf("took %v and %d bytes, want under 50 ms and 1 MiB", took, n)
			}
		})
	}
}

// nestedLists is a structpb.Value of n lists in each other.
func nestedLists(n int) []byte {
	var b []byte
	for range n {
		for _, tag := range []byte{0x0a, 0x32} { // ListValue.values, Value.list_value
			b = append(appendVarint([]byte{tag}, uint64(len(b))), b...)
		}
	}
	return b
}

func appendVarint(b []byte, v uint64) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// proto3Groups is a Value with a list that holds n unknown nested groups.
func proto3Groups(n int) []byte {
	groups := append(bytes.Repeat([]byte{0x7b}, n), bytes.Repeat([]byte{0x7c}, n)...)
	return append(appendVarint([]byte{0x32}, uint64(len(groups))), groups...)
}

// rounded is a copy of v with a float64 for each json.Number, as encoding/json has them.
func rounded(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64()
		return f
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = rounded(v[i])
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for k := range v {
			object[k] = rounded(v[k])
		}
		return object
	}
	return v
}

func FuzzJSON(f *testing.F) {
	b, _ := json.Marshal(sample())
	f.Add(b)
	f.Add([]byte("[10000000000000001]"))
	f.Add([]byte(`{"i":1e5,"any":[{},[],"\ud800\u0000"],"raw":-0.5e-3}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var v any
		if err := strict.Decode(body, &v); err == nil {
			var std any
			if err := json.Unmarshal(body, &std); err != nil || !reflect.DeepEqual(rounded(v), std) {
				t.Fatalf("%q: got %v, encoding/json %v, %v", body, v, std, err)
			}
			again, err := strict.Append(nil, v)
			if err != nil || !serial.JSONEqual(again, mustJSON(v)) {
				t.Fatalf("%q: wrote %q, %v", body, again, err)
			}
		} else if !errors.Is(err, serial.ErrBody) {
			t.Fatalf("%q: %v", body, err)
		}
		var w wide
		if err := strict.Decode(body, &w); err != nil && !errors.Is(err, serial.ErrBody) {
			t.Fatalf("%q: %v", body, err)
		} else if err == nil && !json.Valid(body) {
			t.Fatalf("%q was taken", body)
		}
	})
}

func mustJSON(v any) []byte {
	b, _ := json.Marshal(v)
	return b
}

func FuzzMessagePack(f *testing.F) {
	s := serial.MessagePack(serial.Limits{})
	in := sample()
	in.Self = nil
	b, _ := s.Append(nil, in)
	f.Add(b)
	f.Add([]byte{0x81, 0xa1, 'a', 0xdd, 0, 0, 0, 1, 0xc0})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, into := range []any{new(any), new(wide), new([]int), new(map[string]string)} {
			if err := s.Decode(body, into); err != nil && !errors.Is(err, serial.ErrBody) {
				t.Fatalf("%x into %T: %v", body, into, err)
			}
		}
	})
}

func FuzzProtobuf(f *testing.F) {
	s := serial.Protobuf(serial.Limits{})
	f.Add(nestedLists(5))
	f.Add(proto3Groups(3))
	f.Fuzz(func(t *testing.T, body []byte) {
		var v *structpb.Value
		if err := s.Decode(body, &v); err != nil && !errors.Is(err, serial.ErrBody) {
			t.Fatalf("%x: %v", body, err)
		}
	})
}

func FuzzJSONEqual(f *testing.F) {
	f.Add([]byte(`{"a":[1.50]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		if d.Decode(&v) != nil || strict.Decode(body, new(json.RawMessage)) != nil {
			return
		}
		if again := mustJSON(v); !serial.JSONEqual(body, again) {
			t.Fatalf("%s is not equal to %s", body, again)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	type sum struct {
		A int `json:"a"`
		B int `json:"b"`
	}
	for _, c := range []struct {
		s    serial.Serializer
		body []byte
	}{{strict, []byte(`{"a":123,"b":-4567}`)}, {serial.MessagePack(serial.Limits{}), nil}} {
		if c.body == nil {
			c.body, _ = c.s.Append(nil, sum{123, -4567})
		}
		b.Run(c.s.Name(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var v sum
				if err := c.s.Decode(c.body, &v); err != nil || v.B != -4567 {
					b.Fatal(err, v)
				}
			}
		})
	}
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v sum
			if err := json.Unmarshal([]byte(`{"a":123,"b":-4567}`), &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	type sum struct {
		Sum int `json:"sum"`
	}
	for _, s := range []serial.Serializer{strict, serial.MessagePack(serial.Limits{})} {
		b.Run(s.Name(), func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, 0, 100)
			v := &sum{12345}
			for b.Loop() {
				if _, err := s.Append(dst, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func Example() {
	type sum struct{ A, B int }
	body, _ := serial.JSON(serial.Limits{}).Append(nil, sum{1, 2})
	fmt.Printf("%s\n", body)
	var v sum
	fmt.Println(serial.JSON(serial.Limits{}).Decode([]byte(`{"A":3,"B":null}`), &v))
	// Output:
	// {"A":1,"B":2}
	// serial: bad body: json: no value at byte 11
}
