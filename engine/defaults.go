package engine

import (
	"fmt"
	"strings"
	"time"
)

// Off turns off a limit or timeout whose zero value means its default.
const Off = -1

func or[T comparable](v *T, def T) {
	var zero T
	swap(v, zero, def)
}

func swap[T comparable](v *T, from, to T) {
	if *v == from {
		*v = to
	}
}

// stallAfter is the default of StallAfter.
const stallAfter = 100 * time.Millisecond

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprint(i)
}

func parse(v *uint8, names []string, b []byte) error {
	for i, n := range names {
		if n == string(b) {
			*v = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("%q: must be one of %s", b, strings.Join(names, ", "))
}
