package engine

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// FirstFrameTimeout counts from accept, through whatever stands in front of the first frame:
// who stops on the way is closed, and has seen no session unless he is behind all.
func TestTheFirstFramesTimeGoesThroughAllDoors(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"wss://127.0.0.1:0", "auto://127.0.0.1:0"}, Timeouts: Timeouts{FirstFrameTimeout: 500 * time.Millisecond},
		Doors: Doors{TLS: serverTLS(), ProxyFrom: []string{"127.0.0.1"}}}, &funcs{read: echo})
	const proxy = "PROXY TCP4 203.0.113.9 127.0.0.1 5000 7000\r\n"
	done := make(chan string, 16)
	stages := map[string]func(raw net.Conn) net.Conn{
		"nothing":             func(raw net.Conn) net.Conn { return raw },
		"half a PROXY header": func(raw net.Conn) net.Conn { io.WriteString(raw, proxy[:20]); return raw },
		"a PROXY header":      func(raw net.Conn) net.Conn { io.WriteString(raw, proxy); return raw },
		"half a hello":        func(raw net.Conn) net.Conn { io.WriteString(raw, proxy+"\x16\x03\x01\x02"); return raw },
		"TLS": func(raw net.Conn) net.Conn {
			io.WriteString(raw, proxy)
			c := tls.Client(raw, clientTLS)
			c.Handshake()
			return c
		},
		"half a request": func(raw net.Conn) net.Conn {
			io.WriteString(raw, proxy)
			c := tls.Client(raw, clientTLS)
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n")
			return c
		},
	}
	for i := range srv.Addrs() {
		for name, stage := range stages {
			raw := must(net.Dial("tcp", srv.Addrs()[i].String()))
			defer raw.Close()
			raw.SetDeadline(time.Now().Add(30 * time.Second))
			go func() {
				b, err := io.ReadAll(stage(raw))
				if ne, ok := err.(net.Error); ok && ne.Timeout() || len(b) > 0 {
					done <- fmt.Sprintf("%s: %q, %v, want the end", name, b, err)
				} else {
					done <- ""
				}
			}()
		}
	}
	for range 2 * len(stages) {
		if bad := <-done; bad != "" {
			t.Error(bad)
		}
	}
	if st := srv.Stats(); st.Doors.Late != uint64(2*len(stages)) || st.Accepts != 0 {
		t.Errorf("%d late and %d sessions, want %d and none", st.Doors.Late, st.Accepts, 2*len(stages))
	}
	raw := must(net.Dial("tcp", srv.Addrs()[0].String()))
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(raw, proxy)
	if got := upgradeConn(t, tls.Client(raw, clientTLS), "").closing(); got != 1008 {
		t.Errorf("behind all doors: got %d, want 1008", got)
	}
}

// Frames that come with the request are served, a FIN without a close frame is a FIN, and
// PINGs and PONGs stop no clock.
func TestWebSocketStreams(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Timeouts: Timeouts{IdleTimeout: 700 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		time.Sleep(10 * time.Millisecond) // a handler that takes its time
		s.Reply(p, p.Body)
	}})
	hello := frame(1, 1, "hello")
	nc := must(net.Dial("tcp", srv.Addrs()[0].String()))
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(nc, askUpgrade+"\r\n"+string(wsFrame(0x82, append(bytes.Clone(hello), hello[:5]...))))
	w := upgraded(t, nc)
	w.Write(wsFrame(0x82, append(bytes.Clone(hello[5:]), hello...)))
	nc.(*net.TCPConn).CloseWrite()
	var got []byte
	for {
		first, b, err := w.next()
		if err != nil {
			t.Fatalf("behind %q: %v", got, err)
		}
		if first == 0x88 {
			if len(b) != 2 || binary.BigEndian.Uint16(b) != 1000 {
				t.Errorf("closed with %x, want 1000", b)
			}
			break
		}
		got = append(got, b...)
	}
	if want := bytes.Repeat(hello, 3); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if rest, err := io.ReadAll(w.r); err != nil || len(rest) > 0 {
		t.Errorf("behind the close frame: %q, %v", rest, err)
	}

	idle := dialRaw(t, srv)
	idle.Write(wsFrame(0x82, hello))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				idle.Write(wsFrame(0x89+byte(i&1), []byte("x")))
			}
		}
	}()
	if got := idle.closing(); got != 1008 {
		t.Errorf("only PINGs and PONGs: got %d, want 1008", got)
	}
}

// What a PROXY header may be, how long, and whose address counts where it names no TCP peer.
func TestProxyHeaders(t *testing.T) {
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	v2 := func(command, family byte, at string) string {
		return signature + string([]byte{0x20 | command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(at)))) + at
	}
	four := "\xcb\x00\x71\x09\x7f\x00\x00\x01\x13\x88\x1b\x58" // 203.0.113.9:5000
	six := string(net.ParseIP("2001:db8::1")) + string(net.ParseIP("::1")) + "\x13\x88\x1b\x58"
	mapped := string(net.ParseIP("203.0.113.9").To16()) + string(net.ParseIP("::1")) + "\x13\x88\x1b\x58"
	const own = "own"
	srv := serve(t, Config{Addrs: []string{"tcp://127.0.0.1:0", "ws://127.0.0.1:0"}, Doors: Doors{ProxyFrom: []string{"127.0.0.1"}}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.Reply(p, []byte(s.RemoteAddr().String()))
	}})
	cases := []struct{ name, header, want string }{ // "": no session
		{"v1 TCP4", "PROXY TCP4 203.0.113.9 127.0.0.1 5000 7000\r\n", "203.0.113.9:5000"},
		{"v1 TCP6", "PROXY TCP6 2001:db8:0::1 ::1 443 7000\r\n", "[2001:db8::1]:443"},
		{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", own},
		{"v1 UNKNOWN with more", "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", own},
		{"v1 of 107 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", own},
		{"v1 of 108 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", ""},
		{"v1 without CR", "PROXY UNKNOWN\n", ""},
		{"v1 with a port too high", "PROXY TCP4 203.0.113.9 127.0.0.1 65536 7000\r\n", ""},
		{"v1 with a leading zero", "PROXY TCP4 203.0.113.9 127.0.0.1 05000 7000\r\n", ""},
		{"v1 TCP4 with an IPv6 address", "PROXY TCP4 2001:db8::1 ::1 443 7000\r\n", ""},
		{"v1 in lower case", "proxy TCP4 203.0.113.9 127.0.0.1 5000 7000\r\n", ""},
		{"v2 TCP4", v2(1, 0x11, four), "203.0.113.9:5000"},
		{"v2 TCP6", v2(1, 0x21, six), "[2001:db8::1]:5000"},
		{"v2 TCP6 with an IPv4 address", v2(1, 0x21, mapped), "203.0.113.9:5000"},
		{"v2 TCP4 with more behind", v2(1, 0x11, four+"\x03\x00\x04\x01\x02\x03\x04"), "203.0.113.9:5000"},
		{"v2 LOCAL", v2(0, 0x11, four), own},
		{"v2 LOCAL without addresses", v2(0, 0x00, ""), own},
		{"v2 LOCAL of a family that is none", v2(0, 0xff, "x"), own},
		{"v2 of a family that is none", v2(1, 0xff, four), ""},
		{"v2 UNSPEC", v2(1, 0x00, ""), own},
		{"v2 UDP4", v2(1, 0x12, four), own},
		{"v2 UNIX", v2(1, 0x31, strings.Repeat("x", 216)), own},
		{"v2 of 4 KiB", v2(1, 0x11, four+strings.Repeat("x", 4096-16-12)), "203.0.113.9:5000"},
		{"v2 over 4 KiB", v2(1, 0x11, four+strings.Repeat("x", 4096-16-11)), ""},
		{"v2 too short for its family", v2(1, 0x21, four), ""},
		{"v2 with an unknown command", v2(2, 0x11, four), ""},
		{"v2 of another version", strings.Replace(v2(1, 0x11, four), "\x21", "\x31", 1), ""},
		{"none", "", ""},
	}
	for i, scheme := range []string{"tcp", "ws"} {
		for _, c := range cases {
			for _, cut := range []int{0, 1, 13, len(c.header)} {
				if cut > len(c.header) || cut == 1 && len(c.header) > 1000 {
					continue
				}
				nc := must(net.Dial("tcp", srv.Addrs()[i].String()))
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(30 * time.Second))
				io.WriteString(nc, c.header[:cut])
				ask := frame(1, 1, "who")
				if scheme == "ws" {
					ask = append([]byte(askUpgrade+"\r\n"), wsFrame(0x82, ask)...)
				}
				io.WriteString(nc, c.header[cut:]+string(ask))
				want := c.want
				if want == own {
					want = nc.LocalAddr().String()
				}
				if want == "" {
					b, err := io.ReadAll(nc)
					if ne, ok := err.(net.Error); ok && ne.Timeout() || bytes.Contains(b, []byte("127.0.0.1")) || scheme == "ws" && len(b) > 0 {
						t.Errorf("%s, %s, cut at %d: got %q, %v, want the end", scheme, c.name, cut, b, err)
					}
					continue
				}
				got, buf := []byte(nil), make([]byte, 1024)
				for !bytes.HasSuffix(got, []byte(want)) {
					n, err := nc.Read(buf)
					if got = append(got, buf[:n]...); err != nil {
						t.Errorf("%s, %s, cut at %d: got %q, %v, want %s", scheme, c.name, cut, got, err, want)
						break
					}
				}
			}
		}
	}
}

// From those who are not to send a PROXY header its bytes are what they are behind the door.
func TestProxyHeadersOfOthersAreNone(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tcp://127.0.0.1:0", "ws://127.0.0.1:0", "tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS(), ProxyFrom: []string{"10.0.0.0/8"}}}, &funcs{read: echo})
	for i, want := range []string{"\x00\x00\x00\x03\x00\x01", "HTTP/1.1 400 ", ""} {
		nc := must(net.Dial("tcp", srv.Addrs()[i].String()))
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(nc, "PROXY TCP4 203.0.113.9 127.0.0.1 5000 7000\r\n\r\n")
		b, err := io.ReadAll(nc)
		if ne, ok := err.(net.Error); ok && ne.Timeout() || !bytes.Contains(b, []byte(want)) {
			t.Errorf("address %d: got %q, %v, want %q", i, b, err, want)
		}
	}
	if st := srv.Stats(); st.Doors.BadProxies != 0 || st.Doors.BadHandshakes != 1 || st.Doors.BadUpgrades != 1 || st.Closes[ReasonBadFrame] != 1 {
		t.Errorf("got %+v, %v", st.Doors, st.Closes)
	}
}
