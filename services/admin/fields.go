package admin

import (
	"fmt"
	"reflect"
	"time"
	"unicode"

	"millrace/internal/hist"
	"millrace/timerwheel"
)

// field is one figure of a snapshot such as engine.Stats.
type field struct {
	path    string // in Go, as "Doors.Handshakes"
	name    string // as "doors_handshakes"
	counter bool   // it only grows: a uint64
	value   float64
	json    any
	by      map[string]float64 // of a map: by its keys' texts; value is not set then
	hist    *hist.Snapshot     // of a histogram; neither is
}

// fields are the figures of a snapshot: of a struct, by its fields. In all of the project's
// packages a uint64 counts, and an int is how it is now. Times are in seconds, and named so.
// Slices are left out.
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

// figure is what a value says; its name is what is put behind the field's.
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

// histogramOf is v as a histogram of ours; nil: it is none.
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

// Quantiles is a histogram in short, in seconds.
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

// object is a snapshot as a JSON object.
func object(v any) map[string]any {
	out := map[string]any{}
	for _, f := range fields(v) {
		out[f.name] = f.json
	}
	return out
}

// snake writes FramesIn as frames_in, and MaxConnsPerIP as max_conns_per_ip.
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
