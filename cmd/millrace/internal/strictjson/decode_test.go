package strictjson

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWhatIsNotTheFieldsTypeIsRefused(t *testing.T) {
	nest := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		name, body, want string // want "" is accepted
	}{
		{"plain", `{"ms":5}`, ""},
		{"spaces", " \t\r\n{ \"ms\" : 5 } \n", ""},
		{"unknown key", `{"x":{"y":[1,null,"z"]},"ms":5}`, ""},
		{"last duplicate wins", `{"ms":"x","ms":5}`, ""},
		{"an ill-typed last duplicate", `{"ms":5,"ms":"x"}`, "ms: must be an integer"},
		{"escaped key", `{"\u006ds":5}`, ""},
		{"deepest", `{"ms":5,"x":` + nest(MaxDepth-1) + `}`, ""},
		{"most", `{"ms":4294967295}`, ""},

		{"empty", ``, "must be a JSON object"},
		{"spaces only", `  `, "must be a JSON object"},
		{"array", `[5]`, "must be a JSON object"},
		{"number", `5`, "must be a JSON object"},
		{"BOM", "\xef\xbb\xbf{\"ms\":5}", "must be a JSON object"},
		{"missing", `{}`, "ms: is missing"},
		{"other case", `{"MS":5}`, "ms: is missing"},
		{"null", `{"ms":null}`, "ms: must be an integer"},
		{"true", `{"ms":true}`, "ms: must be an integer"},
		{"string", `{"ms":"5"}`, "ms: must be an integer"},
		{"object", `{"ms":{}}`, "ms: must be an integer"},
		{"fraction", `{"ms":1.5}`, "ms: must be an integer"},
		{"whole fraction", `{"ms":1.0}`, "ms: must be an integer"},
		{"exponent", `{"ms":1e2}`, "ms: must be an integer"},
		{"zero", `{"ms":0}`, "ms: must be 1 to 4294967295"},
		{"negative", `{"ms":-1}`, "ms: must be 1 to 4294967295"},
		{"over", `{"ms":4294967296}`, "ms: must be 1 to 4294967295"},
		{"overflow", `{"ms":99999999999999999999999}`, "ms: must be 1 to 4294967295"},
		{"leading zero", `{"ms":05}`, "not JSON at byte 7: a comma or } is missing"},
		{"plus", `{"ms":+5}`, "not JSON at byte 6: a value is missing"},
		{"bare minus", `{"ms":-}`, "not JSON at byte 7: a digit is missing"},
		{"no digit after the point", `{"ms":1.}`, "not JSON at byte 8: a digit is missing"},
		{"no digit in the exponent", `{"ms":1e}`, "not JSON at byte 8: a digit is missing"},
		{"NaN", `{"ms":NaN}`, "not JSON at byte 6: a value is missing"},
		{"trailing bytes", `{"ms":5}x`, "not JSON at byte 8: more follows the value"},
		{"two objects", `{"ms":5}{"ms":5}`, "not JSON at byte 8: more follows the value"},
		{"zero byte behind", "{\"ms\":5}\x00", "not JSON at byte 8: more follows the value"},
		{"trailing comma", `{"ms":5,}`, "not JSON at byte 8: a key is missing"},
		{"cut", `{"ms":5`, "not JSON at byte 7: a comma or } is missing"},
		{"cut before the value", `{"ms":`, "not JSON at byte 6: it ends early"},
		{"no colon", `{"ms" 5}`, "not JSON at byte 6: a colon is missing"},
		{"bare key", `{ms:5}`, "not JSON at byte 1: a key is missing"},
		{"cut word", `{"ms":tru}`, "not JSON at byte 6: a value is missing"},
		{"bad UTF-8 in another field", "{\"ms\":5,\"x\":\"\xff\"}", "not JSON at byte 13: invalid UTF-8"},
		{"bad UTF-8 in a key", "{\"ms\":5,\"\xc3\":1}", "not JSON at byte 9: invalid UTF-8"},
		{"encoded surrogate", "{\"ms\":5,\"x\":\"\xed\xa0\x80\"}", "not JSON at byte 13: invalid UTF-8"},
		{"half a pair", `{"ms":5,"x":"\ud83d"}`, "not JSON at byte 14: half of a surrogate pair in a string"},
		{"swapped pair", `{"ms":5,"x":"\ude00\ud83d"}`, "not JSON at byte 14: half of a surrogate pair in a string"},
		{"short escape", `{"ms":5,"x":"\u12"}`, "not JSON at byte 14: a bad \\u escape in a string"},
		{"unknown escape", `{"ms":5,"x":"\x"}`, "not JSON at byte 14: an unknown escape in a string"},
		{"control byte", "{\"ms\":5,\"x\":\"\n\"}", "not JSON at byte 13: a control byte in a string"},
		{"open string", `{"ms":5,"x":"`, "not JSON at byte 13: a string does not end"},
		{"too deep", `{"ms":5,"x":` + nest(MaxDepth) + `}`, "nests deeper than 32"},
		{"a flood of brackets", `{"ms":5,"x":` + strings.Repeat("[", 60_000), "nests deeper than 32"},
		{"a flood of braces", `{"ms":5,"x":` + strings.Repeat(`{"a":`, 10_000), "nests deeper than 32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ms int64
			err := Decode([]byte(c.body), Int("ms", &ms, 1, math.MaxUint32))
			if got := text(err); got != c.want {
				t.Fatalf("%s: got %q, want %q", c.body, got, c.want)
			}
			if err == nil && ms != 5 && ms != math.MaxUint32 {
				t.Fatalf("got %d", ms)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestEachKindTakesItsOwn(t *testing.T) {
	for _, c := range []struct {
		name, raw, want string
	}{
		{"any", `null`, `null`}, {"any", `{"a": [1]}`, `{"a": [1]}`}, {"any", `1e400`, `1e400`},
		{"string", `"a\u00e9\"\\\/\b\f\n\r\t\ud83d\ude00"`, "aé\"\\/\b\f\n\r\t😀"}, {"string", `""`, ""},
		{"string", `null`, "v: must be a string"}, {"string", `1`, "v: must be a string"},
		{"float", `1.5`, "1.5"}, {"float", `-0`, "-0"}, {"float", `2e3`, "2000"},
		{"float", `1e400`, "v: must be 0 to 1.7976931348623157e+308"}, {"float", `-1`, "v: must be 0 to 1.7976931348623157e+308"},
		{"float", `null`, "v: must be a number"}, {"float", `"1"`, "v: must be a number"},
		{"uint", `18446744073709551615`, "18446744073709551615"}, {"uint", `-0`, "0"},
		{"uint", `18446744073709551616`, "v: must be 0 to 18446744073709551615"}, {"uint", `-1`, "v: must be 0 to 18446744073709551615"},
		{"uint", `1.0`, "v: must be an integer"}, {"uint", `false`, "v: must be an integer"},
		{"int", `-9223372036854775808`, "-9223372036854775808"}, {"int", `9223372036854775808`, "v: must be -9223372036854775808 to 9223372036854775807"},
	} {
		t.Run(c.name+" "+c.raw, func(t *testing.T) {
			var v any
			var err error
			body := []byte(`{"v":` + c.raw + `}`)
			switch c.name {
			case "any":
				var raw []byte
				err = Decode(body, Any("v", &raw))
				v = string(raw)
			case "string":
				var s string
				err = Decode(body, String("v", &s))
				v = s
			case "float":
				var f float64
				err = Decode(body, Float("v", &f, 0))
				v = f
			case "uint":
				var u uint64
				err = Decode(body, Uint("v", &u, math.MaxUint64))
				v = u
			case "int":
				var n int64
				err = Decode(body, Int("v", &n, math.MinInt64, math.MaxInt64))
				v = n
			}
			got := text(err)
			if err == nil {
				got = sprint(v)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func sprint(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b)
}

func TestAStringIsACopy(t *testing.T) {
	body := []byte(`{"s":"abc"}`)
	var s string
	if err := Decode(body, String("s", &s)); err != nil {
		t.Fatal(err)
	}
	clear(body)
	if s != "abc" {
		t.Errorf("got %q after the body was reused, want abc", s)
	}
}

// Against encoding/json: whatever we accept it accepts with the same value, and what
// we refuse and it accepts is one of the rules that we add.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"ms":5}`, `{"s":"\ud83d\ude00","ms":-0}`, `{"ms":1.5e-3,"s":"é"}`, `{"a":[{}, [],null,true,false]}`, `{"s":"\u0000"}`, "{\"s\":\"\xff\"}", `{"ms":1,"ms":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s string
		var raw []byte
		var n int64
		err := Decode(b, String("s", &s), Any("a", &raw), Int("ms", &n, math.MinInt64, math.MaxInt64))
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("error %T, want *Error", err)
		}
		if valid := Valid(b) == nil; valid && (!json.Valid(b) || !utf8.Valid(b)) {
			t.Fatalf("%q was accepted", b)
		} else if !valid && json.Valid(b) && utf8.Valid(b) && !surrogates(b) && depth(b) <= MaxDepth {
			t.Fatalf("%q was refused: %v", b, Valid(b))
		}
		if err != nil {
			return
		}
		var m map[string]json.RawMessage
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatalf("%q: accepted, but %v", b, err)
		}
		var s2 string
		if json.Unmarshal(m["s"], &s2); s2 != s {
			t.Fatalf("%q: string %q, want %q", b, s, s2)
		}
		var n2 int64
		if json.Unmarshal(m["ms"], &n2); n2 != n {
			t.Fatalf("%q: int %d, want %d", b, n, n2)
		}
		if string(raw) != string(m["a"]) {
			t.Fatalf("%q: any %q, want %q", b, raw, m["a"])
		}
	})
}

func surrogates(b []byte) bool {
	s := strings.ToLower(string(b))
	return strings.Contains(s, `\ud8`) || strings.Contains(s, `\ud9`) || strings.Contains(s, `\uda`) || strings.Contains(s, `\udb`) ||
		strings.Contains(s, `\udc`) || strings.Contains(s, `\udd`) || strings.Contains(s, `\ude`) || strings.Contains(s, `\udf`)
}

// depth is how deep valid JSON nests.
func depth(b []byte) (deepest int) {
	at, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == '{' || c == '['):
			at++
			deepest = max(deepest, at)
		case !inString && (c == '}' || c == ']'):
			at--
		}
	}
	return deepest
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(`{"group":"name","data":"some text of a usual length, say"}`)
	b.ReportAllocs()
	for b.Loop() {
		var g, d string
		if err := Decode(body, String("group", &g), String("data", &d)); err != nil {
			b.Fatal(err)
		}
	}
}
