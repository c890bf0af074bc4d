package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Each framing is served as its name says, and call speaks it.
func TestFramings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ framing, handle, body, sent, want, printed string }{
		{"varint", "1/1", "hello", "\x09\x00\x01\x00\x01hello\x85\x00\x00\x01\x00\x01x", "\x09\x00\x01\x00\x01hello\x05\x00\x01\x00\x01x", "1/1 hello\n"},
		{"line", "0/0", "hello", "one\r\ntwo\n\ncut", "one\ntwo\n\n", "0/0 hello\n"},
		{"delimiter=0d0a", "0/0", "hello", "one\r\n\n\r\ncut", "one\r\n\n\r\n", "0/0 hello\n"},
		{"fixed=5", "0/0", "hello", "12345abcdecut", "12345abcde", "0/0 hello\n"},
	} {
		t.Run(c.framing, func(t *testing.T) {
			s := serve(t, "--framing", c.framing, "--addr", "tcp://127.0.0.1:0")
			conn, err := net.Dial("tcp", hostOf(s.ready[0]))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(conn, c.sent)
			conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
			out, stderr, code := millrace(t, nil, "", "call", "--framing", c.framing, s.ready[0], c.handle, c.body)
			if out != c.printed || code != 0 {
				t.Errorf("call: exit code %d, %q, %q", code, out, stderr)
			}
		})
	}
}

// A framing that can't be is one line, with the way out.
func TestFramingsThatCannotBe(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--framing=lines":                            "must be length, varint, line",
		"--framing=fixed=70000":                      "must be 1 to the frame limit, 65536",
		"--framing=fixed=17 --max-frame=16":          "must be 1 to the frame limit, 16",
		"--framing=delimiter=0":                      "such as 0d0a",
		"--framing=varint --max-frame=9":             "give it room for that, or set --system-frames=false",
		"--framing=line --addr=auto://127.0.0.1:0":   "use separate addresses",
		"--framing=line --seq":                       "leave the layout as it is",
		"--framing=line --heartbeat=5s":              "a framing without handles",
		"--framing=line --resume=5s":                 "a framing without handles",
		"--system-frames=false --resume=5s":          "needs system frames",
		"--max-frame=16 --resume=5s":                 "room for a HELLO",
		"--framing=varint --addr=auto://127.0.0.1:0": "use separate addresses",
	} {
		_, stderr, code := millrace(t, nil, "", append([]string{"serve"}, strings.Fields(args)...)...)
		if code != 64 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, stderr, want)
		}
	}
}
