// Package configtest checks how a package's Config applies its defaults.
package configtest

import (
	"fmt"
	"reflect"
	"testing"
)

// off is the value with which all packages of the project turn a setting off, as 0 means the
// default.
const off = -1

// Defaults checks that withDefaults is idempotent, with nothing set and with each whole number or
// duration turned off in turn, and that settings turned off stay off.
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

// text formats v with pointers and functions as addresses, for comparison.
func text(v any) string { return fmt.Sprintf("%#v", v) }
