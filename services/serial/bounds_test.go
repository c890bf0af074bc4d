package serial

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// Every number is decoded into every type: the result is the value that was sent, or an error.
func TestMessagePackNumbersAreKeptOrRefused(t *testing.T) {
	values := []any{nil, true, "1", 0.5, float32(0.5), math.MaxFloat64, math.Inf(1), int64(math.MinInt64), uint64(math.MaxUint64), int64(1<<53 + 1), int64(1<<24 + 1)}
	for _, n := range []int64{0, 1, 127, 128, 255, 256, 300, 32767, 32768, 65535, 65536, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64} {
		values = append(values, n, -n, uint64(n), -n-1)
	}
	types := []any{int8(0), int16(0), int32(0), int64(0), 0, uint8(0), uint16(0), uint32(0), uint64(0), uint(0), float32(0), float64(0), time.Duration(0)}
	kept := 0
	for _, v := range values {
		for _, compact := range []bool{true, false} {
			var buf bytes.Buffer
			enc := msgpack.NewEncoder(&buf)
			enc.UseCompactInts(compact)
			if err := enc.Encode(v); err != nil {
				t.Fatal(err)
			}
			for _, zero := range types {
				p := reflect.New(reflect.TypeOf(zero))
				err := MessagePack(Limits{}).Decode(buf.Bytes(), p.Interface())
				is := fmt.Sprint(p.Elem().Convert(reflect.TypeOf(zero)).Interface())
				if _, isDuration := zero.(time.Duration); isDuration {
					is = fmt.Sprint(p.Elem().Int())
				}
				want := fmt.Sprint(v)
				if k := p.Elem().Kind(); k == reflect.Float32 || k == reflect.Float64 {
					f := p.Elem().Float()
					is = fmt.Sprintf("%.0f", f)
					want = fmt.Sprintf("%d", v)
					if _, isFloat := v.(float64); isFloat {
						is, want = fmt.Sprint(f), fmt.Sprint(v)
					} else if v == float32(0.5) {
						is, want = fmt.Sprint(f), "0.5"
					}
				}
				if err == nil && is != want {
					t.Errorf("%T %v into %T: got %s without an error", v, v, zero, is)
				}
				if err == nil {
					kept++
				}
			}
		}
	}
	if kept < 500 {
		t.Errorf("only %d were taken", kept)
	}
}

func TestMessagePackChecksWhereverANumberStands(t *testing.T) {
	type inner struct {
		N uint8 `json:"n"`
	}
	type outer struct {
		inner
		P *int8          `json:"p"`
		S []uint8x       `json:"s"`
		M map[int8]inner `json:"m"`
		A [2]int16       `json:"a"`
		T time.Time      `json:"t"`
		B bool           `json:"b"`
		Z string         `json:"z"`
		X any            `json:"x"`
	}
	cases := []struct {
		name string
		in   any
		ok   bool
	}{
		{"all right", map[string]any{"n": 255, "p": -128, "s": []int{1}, "m": map[int]any{-1: map[string]any{"n": 1}}, "a": []int{1, 2}, "b": true, "z": "z", "x": int64(1 << 40), "other": -1}, true},
		{"nil where it may be", map[string]any{"p": nil, "s": nil, "m": nil, "x": nil}, true},
		{"a time", map[string]any{"t": time.Unix(1, 999)}, true},
		{"embedded", map[string]any{"n": 256}, false},
		{"behind a pointer", map[string]any{"p": 128}, false},
		{"in a slice", map[string]any{"s": []int{1, 1 << 16}}, false},
		{"a map's key", map[string]any{"m": map[int]any{200: nil}}, false},
		{"a map's value", map[string]any{"m": map[int]any{1: map[string]any{"n": -1}}}, false},
		{"in an array", map[string]any{"a": []int{1, 1 << 15}}, false},
		{"a short array", map[string]any{"a": []int{1}}, false},
		{"a long array", map[string]any{"a": []int{1, 2, 3}}, false},
		{"an array for a struct", map[string]any{"m": map[int]any{1: []any{1}}}, false},
		{"a time that is a number", map[string]any{"t": 7}, false},
		{"a time that is nil", map[string]any{"t": nil}, false},
		{"nanoseconds of two seconds", map[string]any{"t": msgpack.RawMessage("\xc7\x0c\xff\x77\x35\x94\x00\x00\x00\x00\x00\x00\x00\x00\x01")}, false},
		{"nil for a bool", map[string]any{"b": nil}, false},
		{"nil for a string", map[string]any{"z": nil}, false},
		{"nil for the whole", nil, false},
	}
	for _, c := range cases {
		b, err := msgpack.Marshal(c.in)
		if err != nil {
			t.Fatal(err)
		}
		var got outer
		if err := MessagePack(Limits{}).Decode(b, &got); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// uint8x keeps a slice of numbers from being bytes.
type uint8x uint16

func (uint8x) String() string { return "" }

func TestJSONAnyKeepsLargeIntegers(t *testing.T) {
	s := JSON(Limits{})
	for _, text := range []string{"9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807", "18446744073709551615", "123456789012345678901234567890", "0", "-1", "100000000000000000000"} {
		var v map[string]any
		if err := s.Decode([]byte(`{"n":`+text+`,"l":[`+text+`]}`), &v); err != nil {
			t.Fatal(err)
		}
		out, err := s.Append(nil, v)
		if err != nil || !JSONEqual(out, []byte(`{"n":`+text+`,"l":[`+text+`]}`)) {
			t.Errorf("%s: got %s, %v", text, out, err)
		}
	}
	var v any
	if err := s.Decode([]byte("12"), &v); err != nil || v != any(12.0) {
		t.Errorf("got %T %v, want a float64", v, v)
	}
	if err := s.Decode([]byte("9007199254740993"), &v); err != nil || v != any(json.Number("9007199254740993")) {
		t.Errorf("got %T %v, want a json.Number", v, v)
	}
}

// Four times as long must not take sixteen times as long. The best of some runs of each length are
// compared, so that a busy machine does not count.
func TestJSONEqualIsLinear(t *testing.T) {
	members := func(n int, value string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"%d":%s,`, i, value)
		}
		return "{" + b.String() + `"end":0}`
	}
	backwards := func(n int) string {
		var b strings.Builder
		for i := n - 1; i >= 0; i-- {
			fmt.Fprintf(&b, `"%d":1.0,`, i)
		}
		return "{" + b.String() + `"end":0}`
	}
	sevens := func(n int) string { return strings.Repeat("7", n) }
	nested := func(n int, value string) string { // n times as deep as JSON may be here
		one := strings.Repeat(`{"k":[`, 15) + value + strings.Repeat(`]}`, 15)
		return "[" + strings.Repeat(one+",", n) + "0]"
	}
	for _, c := range []struct {
		name string
		n    int
		pair func(n int) (a, b string)
		want bool
	}{
		{"digits", 400_000, func(n int) (string, string) { return sevens(n), sevens(n) + ".0" }, true},
		{"exponent", 400_000, func(n int) (string, string) { return "1e" + sevens(n), "1.0e" + sevens(n) }, true},
		{"negative exponent", 400_000, func(n int) (string, string) { return "1e-" + sevens(n), "10e-" + sevens(n) }, false},
		{"fraction", 400_000, func(n int) (string, string) { return "0." + sevens(n), sevens(n) + "e-" + fmt.Sprint(n) }, true},
		{"wide objects", 20_000, func(n int) (string, string) { return members(n, "1"), backwards(n) }, true},
		{"one key", 20_000, func(n int) (string, string) {
			return "{" + strings.Repeat(`"k":0,`, n) + `"k":1}`, "{" + strings.Repeat(`"k":2,`, n) + `"k":1.0}`
		}, true},
		{"deep nesting", 1_000, func(n int) (string, string) { return nested(n, "1"), nested(n, "1.0") }, true},
		{"escapes", 100_000, func(n int) (string, string) {
			return `"` + strings.Repeat(`\u0061`, n) + `"`, `"` + strings.Repeat("a", n) + `"`
		}, true},
	} {
		best := func(n int) time.Duration {
			a, b := c.pair(n)
			best := time.Hour
			for range 5 {
				start := time.Now()
				if got := JSONEqual([]byte(a), []byte(b)); got != c.want {
					t.Fatalf("%s, %d: got %v", c.name, n, got)
				}
				best = min(best, time.Since(start))
			}
			return best
		}
		for try := 0; ; try++ { // a busy machine may make any one of them late
			short, long := best(c.n/4), best(c.n)
			if long <= 10*short || long <= 20*time.Millisecond {
				break
			}
			if try == 4 {
				t.Errorf("%s: %v for %d, %v for %d", c.name, short, c.n/4, long, c.n)
				break
			}
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"1e5", "100000", true}, {"1e05", "10E4", true}, {"1e-5", "0.00001", true}, {"1e00000000000000000000001", "10", true},
		{"1e9999999999999999999999", "1.0e9999999999999999999999", true}, {"1e9999999999999999999999", "1e-9999999999999999999999", false},
		{"1e9999999999999999999999", "1e9999999999999999999998", false}, {"0e9999999999999999999999", "0", true}, {"1e5", "1e6", false},
	} {
		if got := JSONEqual([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s, %s: got %v", c.a, c.b, got)
		}
	}
}
