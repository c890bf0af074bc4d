package bench

import (
	"encoding/binary"
	"fmt"
)

var errorNames = map[uint16]string{
	1: "bad_frame", 2: "unknown_handle", 3: "bad_body", 4: "overloaded", 5: "timeout", 6: "internal", 7: "draining",
	8: "unauthorised", 9: "conflict", 10: "not_found", 11: "unavailable", 12: "limit",
}

// describeError formats the body of an ERROR frame.
func describeError(body []byte) string {
	if len(body) < 6 {
		return fmt.Sprintf("a malformed ERROR %q", clip(body))
	}
	code := binary.BigEndian.Uint16(body)
	name := errorNames[code]
	if name == "" {
		name = "?"
	}
	return fmt.Sprintf("ERROR %d %s about %s: %s", code, name, handleName(binary.BigEndian.Uint32(body[2:])), clip(body[6:]))
}

// clip keeps an error message short.
func clip(b []byte) []byte { return b[:min(len(b), 120)] }
