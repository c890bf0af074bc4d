package nodes

import (
	"encoding/hex"
	"fmt"
)

// NewTrace parses a trace ID of 32 hexadecimal digits, as in the traceparent header of W3C Trace Context.
func NewTrace(text string) (t [16]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(t) {
		return t, fmt.Errorf("nodes: trace %q: must be 32 hexadecimal digits", text)
	}
	copy(t[:], b)
	return t, nil
}
