package serial

import (
	"bytes"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// JSONEqual reports whether a and b are the same JSON value. Spaces, the order of an object's keys
// and the notation of a number or string don't matter (1, 1.0 and 10e-1 are equal, whatever their
// size); of duplicate keys the last one counts. Input that is not JSON, or nested more than 32
// levels, equals only identical bytes. An exponent of more than 4,096 digits equals only the same
// exponent. The time is linear in the length.
func JSONEqual(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, okA := parseJSON(a)
	y, okB := parseJSON(b)
	return okA && okB && sameJSON(x, y)
}

// decimal is a number as digits x 10^exp; digits neither begin nor end with 0.
type decimal struct {
	negative bool
	digits   string // "" is 0
	exp      int64
	huge     string // the exponent as written if an int64 has no room; exp is then the rest of it
}

func parseJSON(b []byte) (any, bool) {
	d := jsonReader{b: b, lim: Limits{}.withDefaults()}
	d.space()
	x, err := d.tree()
	d.space()
	return x, err == nil && d.i == len(b)
}

// tree reads a value as decodeAny does, but keeps numbers as written.
func (d *jsonReader) tree() (any, error) {
	switch d.peek() {
	case '{':
		m := map[string]any{}
		err := d.object(func(key []byte) error {
			k := string(key)
			v, err := d.tree()
			m[k] = v
			return err
		})
		return m, err
	case '[':
		s := []any{}
		err := d.array(func(int) error {
			v, err := d.tree()
			s = append(s, v)
			return err
		})
		return s, err
	case '"', 't', 'f', 'n':
		return d.any()
	}
	text, _, err := d.number()
	if err != nil {
		return nil, err
	}
	return newDecimal(string(text)), nil
}

// maxExponent is the maximum number of digits of an exponent that is computed with: the time grows
// with their square.
const maxExponent = 4096

func newDecimal(text string) decimal {
	text, negative := strings.CutPrefix(text, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return decimal{}
	}
	kept := strings.TrimRight(digits, "0")
	d := decimal{negative: negative, digits: kept, exp: int64(len(digits) - len(kept) - len(fraction))}
	exponent, below := strings.CutPrefix(strings.TrimPrefix(exponent, "+"), "-")
	exponent = strings.TrimLeft(exponent, "0")
	if below {
		exponent = "-" + exponent
	}
	switch n, err := strconv.ParseInt(exponent, 10, 32); {
	case exponent == "" || exponent == "-":
	case err == nil:
		d.exp += n
	case len(exponent) > maxExponent:
		d.huge = exponent
	default:
		sum, _ := new(big.Int).SetString(exponent, 10) // digits only
		d.huge, d.exp = sum.Add(sum, big.NewInt(d.exp)).String(), 0
		if sum.IsInt64() {
			d.huge, d.exp = "", sum.Int64()
		}
	}
	return d
}

func sameJSON(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, ok := b[k]; !ok || !sameJSON(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameJSON)
	case decimal:
		b, ok := b.(decimal)
		return ok && a == b
	}
	return a == b // nil, bool, string
}
