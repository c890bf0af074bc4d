package bench

import (
	"bytes"
	"strconv"
)

// jsonField returns the raw text of a member of a flat JSON object, nil when it is not there. It
// is for replies of a known shape, at a twentieth of a decoder's cost; strings with escapes and
// nested values come back cut.
func jsonField(body []byte, key string) []byte {
	for rest := body; ; {
		i := bytes.Index(rest, []byte(key))
		if i < 0 {
			return nil
		}
		after := rest[i+len(key):]
		if i > 0 && rest[i-1] == '"' && len(after) > 0 && after[0] == '"' {
			after = bytes.TrimLeft(after[1:], " \t\r\n")
			if len(after) > 0 && after[0] == ':' {
				return jsonToken(bytes.TrimLeft(after[1:], " \t\r\n"))
			}
		}
		rest = rest[i+len(key):]
	}
}

func jsonToken(b []byte) []byte {
	if len(b) > 0 && b[0] == '"' {
		end := bytes.IndexByte(b[1:], '"')
		return b[:end+2]
	}
	if end := bytes.IndexAny(b, ",}] \t\r\n"); end >= 0 {
		return b[:end]
	}
	return b
}

// jsonInt returns a whole number member.
func jsonInt(body []byte, key string) (int64, bool) {
	n, err := strconv.ParseInt(string(jsonField(body, key)), 10, 64) // the conversion does not escape
	return n, err == nil
}

func jsonIs(body []byte, key, want string) bool { return string(jsonField(body, key)) == want }
