package engine

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// dialWS opens a WebSocket of the server's, with headers of the request's own.
func dialWS(t testing.TB, srv *Server, header http.Header) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(within(t, 20*time.Second), "ws://"+srv.Addrs()[0].String()+"/", &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// code reads until the close frame and returns its code.
func code(t testing.TB, c *websocket.Conn) websocket.StatusCode {
	t.Helper()
	for {
		if _, _, err := c.Read(within(t, 20*time.Second)); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// A WebSocket closes with the code of what ended its session.
func TestCloseCodesSayWhatEndedTheSession(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Timeouts: Timeouts{FirstFrameTimeout: 300 * time.Millisecond, FrameTimeout: 300 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 9 {
			panic("on purpose")
		}
		s.Reply(p, p.Body)
	}})
	if got := code(t, dialWS(t, srv, nil)); got != 1008 {
		t.Errorf("no first frame: got %d, want 1008", got)
	}
	c := dialWS(t, srv, nil)
	c.Write(within(t, 20*time.Second), websocket.MessageBinary, frame(1, 9, ""))
	if got := code(t, c); got != 1011 {
		t.Errorf("a panic: got %d, want 1011", got)
	}
	c = dialWS(t, srv, nil)
	c.Write(within(t, 20*time.Second), websocket.MessageBinary, append(frame(1, 1, "x"), 0, 0, 0))
	if got := code(t, c); got != 1008 {
		t.Errorf("half a frame: got %d, want 1008", got)
	}
	c = dialWS(t, srv, nil)
	c.Write(within(t, 20*time.Second), websocket.MessageBinary, frame(1, 1, "x"))
	if _, _, err := c.Read(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Stop(within(t, 30*time.Second)) }()
	if got := code(t, c); got != 1001 {
		t.Errorf("a drain: got %d, want 1001", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// X-Forwarded-For names the peer where the one who sends it is believed, and only there.
func TestForwardedForIsBelievedOfSomeOnly(t *testing.T) {
	for from, want := range map[string]string{"127.0.0.0/8": "203.0.113.7", "10.0.0.0/8": "127.0.0.1"} {
		srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Doors: Doors{ForwardedFrom: []string{from}}}, &funcs{read: func(s *Session, p codec.Packet) {
			s.Reply(p, []byte(s.RemoteAddr().String()))
		}})
		// The nearest proxy writes the last one; what stands in front of it is the client's word.
		c := dialWS(t, srv, http.Header{"X-Forwarded-For": {"198.51.100.1, 203.0.113.7"}})
		c.Write(within(t, 20*time.Second), websocket.MessageBinary, frame(1, 1, ""))
		_, b, err := c.Read(within(t, 20*time.Second))
		if err != nil || !strings.HasPrefix(string(b[8:]), want+":") {
			t.Errorf("believed of %s: got %q, %v, want %s", from, b, err, want)
		}
	}
}

// A FIN without close_notify is counted, and the requests in front of it are answered.
func TestATruncatedStreamIsAnsweredAndCounted(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: echo})
	raw, err := net.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(raw, clientTLS)
	c.Write(frame(1, 1, "owed"))
	raw.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != string(frame(1, 1, "owed")) {
		t.Errorf("got %q, %v", got, err)
	}
	for end := time.Now().Add(20 * time.Second); srv.Stats().Doors.Truncated != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d truncated, want 1", srv.Stats().Doors.Truncated)
		}
	}
}

// Stop cuts connections whose session has gone and that only wait for their peers' FIN.
func TestStopCutsConnectionsThatLinger(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Timeouts: Timeouts{Linger: time.Minute}}, &funcs{read: echo})
	c, err := net.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x88\x82\x00\x00\x00\x00\x03\xe8")
	for end := time.Now().Add(20 * time.Second); srv.Stats().Doors.Closing == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection does not wait for the peer's FIN")
		}
	}
	if err := srv.Stop(within(t, 20*time.Second)); err != nil {
		t.Errorf("Stop: %v", err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(got), "\x88\x02\x03\xe8") {
		t.Errorf("got %q, %v, want the close frame and the end", got, err)
	}
	if n := srv.Stats().Doors.Closing; n != 0 {
		t.Errorf("%d connections wait for their peers' FIN behind Stop", n)
	}
}
