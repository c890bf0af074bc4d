package main

import (
	"io"
	"strings"
	"testing"
	"unicode"
)

// Whatever clients send, in whatever number: the log gets a few lines, no control character, and
// nothing of what they sent.
func TestBadClientsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	s := serve(t, "--recorder=errors", "--unsafe-demo", "--max-conns=100", "--tls-self-signed", "--addr=tcp://127.0.0.1:0", "--addr=auto://127.0.0.1:0")
	const secret = "wh1spered"
	nasty := "\x1b[31m\r\nlevel=ERROR msg=" + secret + "\x00"
	ask := func(n int, main, sub uint16, body string) {
		c := s.dial()
		go c.Write([]byte(strings.Repeat(string(packet{main, sub, body}.bytes()), n)))
		for range n {
			if f := c.recv(); f.main != 0 || f.sub != 3 {
				t.Fatalf("%d/%d: got %v, want an ERROR", main, sub, f)
			}
		}
		c.Close()
	}
	ask(3000, 9, 9, nasty)                             // no such handle
	ask(3000, 4, 3, `{"a":"`+nasty+`"}`)               // no JSON
	ask(1000, 1, 5, `{"group":["`+secret+`"]}`)        // no text
	ask(1000, 3, 1, `{"name":"`+secret+`"}`)           // no database
	ask(1000, 5, 4, `{"key":"`+secret+`","ttl_ms":0}`) // out of range
	for i := range 300 {
		c := dialAddr(t, strings.Replace(s.ready[i%2], "auto:", "tcp:", 1))
		switch i % 3 {
		case 0: // a length that can't be
			c.Write([]byte{0xff, 0xff, 0xff, 0xff})
		case 1: // a handler that panics
			c.Write(packet{1, 9, nasty}.bytes())
		case 2: // no TLS, no upgrade
			c.Write([]byte([]string{"\x16\x03\x01" + nasty, "GET /" + secret + "\x1b HTTP/1.1\r\n" + nasty + "\r\n\r\n"}[i%2]))
			c.finish()
		}
		if _, err := io.Copy(io.Discard, c.Conn); err != nil && !errClosed(err) {
			t.Errorf("connection %d: %v", i, err)
		}
		c.Close()
	}
	s.stop()
	log := s.log()
	if lines := strings.Count(log, "\n"); lines > 60 {
		t.Errorf("%d lines:\n%.4000s", lines, log)
	}
	if strings.Contains(log, secret) {
		t.Errorf("what was sent is in the log:\n%s", log[strings.Index(log, secret)-200:])
	}
	if strings.ContainsFunc(log, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }) {
		t.Errorf("control characters:\n%q", log)
	}
	if !strings.Contains(log, "panic in a callback") {
		t.Error("the panics are not told")
	}
}
