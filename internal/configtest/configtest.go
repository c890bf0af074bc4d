// Package configtest checks how a package's Config takes its defaults.
package configtest

import (
	"fmt"
	"reflect"
	"testing"
)

// off is what every package of the project calls off, where 0 stands for a default.
const off = -1

// Defaults checks that withDefaults fills in once: of what it returned it makes the same
// again, with nothing set and with each whole number or duration turned off in its turn,
// and what was off stays off.
func Defaults[C any](t *testing.T, withDefaults func(C) C) {
	t.Helper()
	var cfg C
	fill := func(what string) reflect.Value {
		t.Helper()
		once := withDefaults(cfg)
		if twice := withDefaults(once); text(twice) != text(once) {
			t.Errorf("%T, %s: got %s\nthe second time %s", cfg, what, text(once), text(twice))
		}
		return reflect.ValueOf(once)
	}
	fill("nothing set")
	v := reflect.ValueOf(&cfg).Elem()
	for _, field := range reflect.VisibleFields(v.Type()) {
		if f := v.FieldByIndex(field.Index); f.CanInt() && f.CanSet() {
			name := field.Name
			f.SetInt(off)
			if got := fill(name + " off").FieldByIndex(field.Index).Int(); got != off {
				t.Errorf("%T: %s is off, and %d with defaults", cfg, name, got)
			}
			f.SetInt(0)
		}
	}
}

// text is v with its pointers and functions as addresses, so that it can be compared.
func text(v any) string { return fmt.Sprintf("%#v", v) }
