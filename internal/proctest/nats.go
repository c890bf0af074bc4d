package proctest

import (
	"bytes"
	"fmt"
	"strconv"
)

// NATSMessage splits what a NATS server sends into messages, as a bufio.SplitFunc: one on each
// line; MSG and HMSG end with the number of bytes that follow
// (https://docs.nats.io/reference/reference-protocols/nats-protocol).
func NATSMessage(data []byte, _ bool) (int, []byte, error) {
	line, _, whole := bytes.Cut(data, []byte("\r\n"))
	if !whole {
		return 0, nil, nil
	}
	end := len(line) + 2
	if f := bytes.Fields(line); len(f) > 3 && (string(f[0]) == "MSG" || string(f[0]) == "HMSG") {
		n, err := strconv.Atoi(string(f[len(f)-1]))
		if err != nil || n < 0 {
			return 0, nil, fmt.Errorf("nats: %q", line)
		}
		end += n + 2
	}
	if end > len(data) {
		return 0, nil, nil
	}
	return end, data[:end], nil
}

// Watched reports whether a message is for a watch of a bucket, sent under the key's subject.
// Answers are sent to an inbox.
func Watched(message []byte) bool {
	f := bytes.Fields(message[:bytes.IndexByte(message, '\r')])
	return len(f) > 3 && bytes.HasPrefix(f[1], []byte("$KV."))
}
