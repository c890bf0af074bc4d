package serial

import (
	"reflect"
	"strconv"
	"strings"
)

// field is one field of a struct, those of embedded structs included.
type field struct {
	name     string
	index    []int
	decode   decode
	required bool
}

// read decodes the field of v.
func (f *field) read(d *jsonReader, v reflect.Value) error {
	if len(f.index) == 1 {
		return f.decode(d, v.Field(f.index[0]))
	}
	return f.decode(d, v.FieldByIndex(f.index))
}

// structPlan is guarded by decoderOf's making; it does not change after.
type structPlan struct {
	fields []field
	byName map[string]int
}

func decodeStruct(t reflect.Type) decode {
	p := &structPlan{byName: map[string]int{}}
	for _, f := range reflect.VisibleFields(t) {
		p.add(t, f)
	}
	return p.decode
}

func (p *structPlan) add(t reflect.Type, f reflect.StructField) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	embedded := f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct
	if name == "-" && options == "" || embedded || !f.IsExported() || throughPointer(t, f.Index) {
		return
	}
	if name == "" {
		name = f.Name
	}
	if i, ok := p.byName[name]; ok && len(p.fields[i].index) <= len(f.Index) {
		return // the less deeply embedded one counts
	}
	optional := f.Type.Kind() == reflect.Pointer || strings.Contains(","+options+",", ",omitempty,") ||
		strings.Contains(","+options+",", ",omitzero,")
	p.byName[name] = len(p.fields)
	p.fields = append(p.fields, field{name, f.Index, decoderOf(f.Type), !optional})
}

// throughPointer: the field is in a struct that is embedded by pointer, which
// is not decoded into.
func throughPointer(t reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		if t = t.Field(i).Type; t.Kind() == reflect.Pointer {
			return true
		}
	}
	return false
}

func (p *structPlan) decode(d *jsonReader, v reflect.Value) error {
	v.SetZero()
	var room [4]uint64
	seen := room[:]         // a bit for each field
	var wrong map[int]error // fields that were not what they should be
	if n := len(p.fields)/64 + 1; n > len(room) {
		seen = make([]uint64, n)
	}
	err := d.object(func(key []byte) error {
		i, ok := p.byName[string(key)]
		if !ok {
			return d.skip()
		}
		seen[i/64] |= 1 << (i % 64)
		delete(wrong, i) // of duplicates the last one counts
		back := *d
		err := p.fields[i].read(d, v)
		if err == nil {
			return nil
		}
		*d = back
		if bad := d.skip(); bad != nil {
			return bad // not JSON, or over a limit
		}
		if wrong == nil {
			wrong = map[int]error{}
		}
		wrong[i] = err
		return nil
	})
	if err != nil {
		return err
	}
	for _, err := range wrong {
		return err
	}
	for i := range p.fields {
		if p.fields[i].required && seen[i/64]&(1<<(i%64)) == 0 {
			return d.bad("no field " + strconv.Quote(p.fields[i].name))
		}
	}
	return nil
}
