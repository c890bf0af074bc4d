package admin

import (
	"fmt"
	"reflect"
	"time"
	"unicode"

	"millrace/internal/hist"
	"millrace/timerwheel"
)

// field is one number of a snapshot such as engine.Stats.
type field struct {
	path    string // in Go, such as "Doors.Handshakes"
	name    string // such as "doors_handshakes"
	counter bool   // only grows: a uint64
	value   float64
	json    any
	by      map[string]float64 // for a map, by the text of the keys; value is unset
	hist    *hist.Snapshot     // for a histogram; value and by are unset
}

// fields returns the numbers of a snapshot, by the fields of the struct. In all of the project's
// packages a uint64 is a counter, and an int a current value. Times are in seconds, and named
// accordingly. Slices are omitted.
func fields(v any) []field {
	if v == nil {
		return nil
	}
	return fieldsOf(reflect.ValueOf(v), "", "")
}

func fieldsOf(v reflect.Value, path, name string) (all []field) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			all = append(all, fieldsOf(v.Field(i), path, name)...)
			continue
		}
		p, n := path+f.Name, name+snake(f.Name)
		switch x := v.Field(i); x.Kind() {
		case reflect.Struct:
			if h := histogramOf(x.Interface()); h != nil {
				all = append(all, field{path: p, name: n + "_seconds", hist: h, json: quantiles(h)})
				continue
			}
			all = append(all, fieldsOf(x, p+".", n+"_")...)
		default:
			if one, ok := figure(x); ok {
				one.path, one.name = p, n+one.name
				all = append(all, one)
			}
		}
	}
	return all
}

// figure converts a value; its name is a suffix of the field's name.
func figure(x reflect.Value) (f field, ok bool) {
	if d, is := x.Interface().(time.Duration); is {
		return field{name: "_seconds", value: d.Seconds(), json: d.Seconds()}, true
	}
	f.json = x.Interface()
	switch x.Kind() {
	case reflect.Bool:
		if x.Bool() {
			f.value = 1
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		f.value = float64(x.Int())
	case reflect.Uint32, reflect.Uint64, reflect.Uint:
		f.value, f.counter = float64(x.Uint()), true
	case reflect.Float64:
		f.value = x.Float()
	case reflect.Map:
		f.by = map[string]float64{}
		for _, k := range x.MapKeys() {
			one, ok := figure(x.MapIndex(k))
			if !ok || one.by != nil {
				return f, false
			}
			f.by[fmt.Sprint(k.Interface())] = one.value
			f.counter = one.counter
		}
		if x.Type().Elem().Kind() == reflect.Uint64 {
			f.counter = true
		}
		f.json = f.by
	default:
		return f, false
	}
	return f, true
}

// histogramOf returns v as a histogram; nil if it is none.
func histogramOf(v any) *hist.Snapshot {
	switch h := v.(type) {
	case hist.Snapshot:
		return &h
	case timerwheel.Histogram:
		var s hist.Snapshot
		h.Each(func(end time.Duration, n uint64) {
			s.Add(end, n)
			s.Sum += end * time.Duration(n)
		})
		return &s
	}
	return nil
}

// Quantiles summarizes a histogram, in seconds.
type Quantiles struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func quantiles(h *hist.Snapshot) Quantiles {
	at := func(q float64) float64 { return h.Quantile(q).Seconds() }
	return Quantiles{h.Count(), h.Sum.Seconds(), at(0.5), at(0.9), at(0.99), at(1)}
}

// object returns a snapshot as a JSON object.
func object(v any) map[string]any {
	out := map[string]any{}
	for _, f := range fields(v) {
		out[f.name] = f.json
	}
	return out
}

// snake converts FramesIn to frames_in, and MaxConnsPerIP to max_conns_per_ip.
func snake(s string) string {
	var out []rune
	in := []rune(s)
	for i, c := range in {
		if unicode.IsUpper(c) && i > 0 && (!unicode.IsUpper(in[i-1]) || i+1 < len(in) && unicode.IsLower(in[i+1])) {
			out = append(out, '_')
		}
		out = append(out, unicode.ToLower(c))
	}
	return string(out)
}
