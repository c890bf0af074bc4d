package door

import (
	"strings"
	"testing"
)

const plainRequest = "GET /chat HTTP/1.1\r\nHost: example.com:8080\r\nOrigin: http://example.com:8080\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"User-Agent: x/1 (y; z)\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, millrace\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

func TestAPlainUpgradeCostsNoMemory(t *testing.T) {
	cfg := &Config{}
	head := []byte(plainRequest)
	out := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(100, func() {
		key, offered, ok := quickUpgrade(head, cfg, "/chat", false)
		if !ok || !offered {
			t.Fatal("the long way is taken")
		}
		out = accepted(out[:0], key, offered, deflateTerms{})
	}); n != 0 {
		t.Errorf("%g allocations, want none", n)
	}
}

// What is accepted the quick way is what net/http's reader and the rules would have accepted,
// with the same key and protocol.
func FuzzQuickUpgrade(f *testing.F) {
	f.Add(plainRequest, "/chat", false, "")
	for _, pair := range [][2]string{
		{"HTTP/1.1", "HTTP/1.0"}, {"/chat", "/chat?x"}, {"\r\n", "\n"}, {"Host: ", "Host : "}, {"Origin: http", "Origin: https"},
		{"8080\r\nUp", "\r\nUp"}, {": 13", ": 13\r\nSec-WebSocket-Version: 12"}, {"Upgrade: w", "upgrade:\tfoo,W"}, {"AA==", "AB=="},
		{"User-Agent: ", "Content-Length: 3\r\nX: "}, {"User-Agent: ", " "}, {"Sec-WebSocket-Key", "Sec_WebSocket_Key"}, {"x/1", "\x7f"}, {"keep-alive, Upgrade", "close"},
		{": 13", ": 12"}, {"Sec-WebSocket-Key:", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Key:"},
		{"User-Agent: ", "Transfer-Encoding: x\r\nX: "}, {"http://example", "http://other"}, {"websocket", "websockets"}, {"GET", "PUT"},
	} {
		f.Add(strings.Replace(plainRequest, pair[0], pair[1], 1), "/chat", false, "")
		f.Add(strings.Replace(plainRequest, pair[0], pair[1], 1), "/chat", false, "*")
		f.Add(strings.ReplaceAll(plainRequest, pair[0], pair[1]), "/chat", true, "http://example.com")
	}
	f.Fuzz(func(t *testing.T, head, path string, secure bool, allowed string) {
		if headEnd([]byte(head)) != len(head) {
			t.Skip()
		}
		cfg := &Config{Origins: []string{allowed}}
		key, offered, ok := quickUpgrade([]byte(head), cfg, path, secure)
		if !ok {
			return
		}
		r, no := readRequest([]byte(head))
		if no == nil {
			no = checkUpgrade(r, path, cfg.Origins, secure)
		}
		if no != nil {
			t.Fatalf("%q is accepted, which is refused with %d %s", head, no.status, no.text)
		}
		if want := r.Header.Get("Sec-Websocket-Key"); string(key) != want {
			t.Errorf("key %q, want %q", key, want)
		}
		if want := hasToken(r.Header, "Sec-Websocket-Protocol", Subprotocol); offered != want {
			t.Errorf("offered %v, want %v", offered, want)
		}
	})
}
