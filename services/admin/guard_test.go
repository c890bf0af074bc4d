package admin_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services/admin"
)

// A request with several faults gets the first of 401, 403 (Host, Origin), 404, 405 and 403
// (no changes here).
func TestRefusalsComeInTheirOrder(t *testing.T) {
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Token = "secret" })
	p := r.dial()
	p.echo("in")
	const bad, good = "Authorization: Bearer wrong\r\n", "Authorization: Bearer secret\r\n"
	host, foreign := "Host: localhost:"+r.port()+"\r\n", "Host: evil.example\r\n"
	for _, tc := range []struct {
		line, headers string
		want          int
	}{
		{"POST /nothing", foreign, 401},
		{"POST /nothing", foreign + bad, 401},
		{"POST /nothing", foreign + good, 403},
		{"POST /nothing", host + "Origin: http://evil.example\r\n" + good, 403},
		{"POST /nothing", host + good, 404},
		{"POST /sessions/9.9/kick", host + good, 404},
		{"GET /sessions/9.9/kick", host + good, 404},
		{"GET /sessions/0.1/kick", host + good, 405},
		{"POST /sessions/0.1/kick", host + good, 403},
		{"POST /healthz", host + good, 405},
		{"GET /drain", host + good, 405},
		{"PUT /config", host + good, 405},
		{"OPTIONS /config", host + good, 405},
		{"POST /drain", host + good, 403},
		{"POST /undrain", host + good, 403},
		{"POST /config", host + good, 403},
		{"GET /healthz", host, 401},
		{"GET /healthz", host + "Authorization: Basic secret\r\n", 401},
		{"GET /healthz", host + good + good, 401},
		{"GET /healthz", host + "Authorization: bearer secret\r\n", 200},
		{"HEAD /healthz", host + good, 200},
		{"GET /healthz", host + good, 200},
		{"GET /debug/pprof/heap", host + good, 404},
		{"GET /healthz/", host + good, 404},
		{"GET /sessions/", host + good, 404},
	} {
		res := r.raw(tc.line + " HTTP/1.1\r\n" + tc.headers + "\r\n")
		if res.StatusCode != tc.want {
			t.Errorf("%s with %q: got %d, want %d", tc.line, tc.headers, res.StatusCode, tc.want)
		}
		if b, _ := io.ReadAll(res.Body); strings.HasPrefix(tc.line, "HEAD") == (len(b) > 0) || strings.Contains(string(b), "secret") {
			t.Errorf("%s: a body of %q", tc.line, b)
		}
		if res.StatusCode == 405 && res.Header.Get("Allow") == "" {
			t.Errorf("%s: 405 without Allow", tc.line)
		}
	}
	if r.srv.Draining() || r.srv.Stats().Conns != 1 {
		t.Error("a refused request has changed something")
	}
}

// Only the server's own names are accepted as Host, and only its own pages as Origin: a name that
// an attacker's DNS server resolves to loopback is refused as both.
func TestForeignHostsAndOriginsAreRefused(t *testing.T) {
	r := open(t, nil)
	port := r.port()
	for host, want := range map[string]int{
		"127.0.0.1:" + port: 200, "localhost:" + port: 200, "LocalHost:" + port: 200, "127.9.9.9:" + port: 200, "[::1]:" + port: 200, "[::ffff:127.0.0.1]:" + port: 200,
		"127.0.0.1": 403, "localhost": 403, "localhost:1": 403, "localhost.:" + port: 403, "evil.example:" + port: 403, "127.0.0.1.evil.example:" + port: 403,
		"192.0.2.1:" + port: 403, "0.0.0.0:" + port: 403, "[::]:" + port: 403, "localhost:" + port + "@evil": 400, "unix:" + port: 403,
	} {
		if got := r.raw("GET /healthz HTTP/1.1\r\nHost: " + host + "\r\n\r\n").StatusCode; got != want && !(want == 400 && got == 403) {
			t.Errorf("Host %s: got %d, want %d", host, got, want)
		}
	}
	own := "Host: 127.0.0.1:" + port + "\r\n"
	for headers, want := range map[string]int{
		"":        400,
		own + own: 400,
		own + "Origin: http://127.0.0.1:" + port + "\r\n":                                200,
		own + "Origin: http://localhost:" + port + "\r\n":                                200,
		own + "Origin: null\r\n":                                                         403,
		own + "Origin: http://127.0.0.1:1\r\n":                                           403,
		own + "Origin: https://127.0.0.1:" + port + "\r\n":                               403,
		own + "Origin: http://evil.example\r\n":                                          403,
		own + "Origin: http://localhost:" + port + "\r\nOrigin: http://evil.example\r\n": 403,
		own + "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n":                403,
		own + "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n":               200,
		own + "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n":                  200,
	} {
		if got := r.raw("GET /healthz HTTP/1.1\r\n" + headers + "\r\n").StatusCode; got != want {
			t.Errorf("%q: got %d, want %d", headers, got, want)
		}
	}
	if got := r.raw("GET /healthz HTTP/1.0\r\n\r\n").StatusCode; got != 400 {
		t.Errorf("HTTP/1.0 without a Host: got %d, want 400", got)
	}
}

// With a token addresses other than loopback are served; without one New refuses them.
func TestOtherAddressesNeedAToken(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"} {
		if _, err := admin.New(admin.Config{Addr: addr, Server: new(engine.Server)}); err == nil || !strings.Contains(err.Error(), "token") {
			t.Errorf("%s without a token: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "unix://relative", "unix:///", "http://127.0.0.1:1"} {
		if err := admin.CheckAddr(addr, true); err == nil {
			t.Errorf("%q: no error", addr)
		}
	}
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Addr, c.Token = "0.0.0.0:0", "secret" })
	for host, want := range map[string]int{"127.0.0.1": 200, "localhost": 200, "192.0.2.7": 403, "evil.example": 403} {
		res := r.raw("GET /readyz HTTP/1.1\r\nAuthorization: Bearer secret\r\nHost: " + host + ":" + r.port() + "\r\n\r\n")
		if res.StatusCode != want {
			t.Errorf("Host %s of a door on all addresses: got %d, want %d", host, res.StatusCode, want)
		}
	}
}

// No more than MaxClients connections are served; one that sends no request gives way to one that asks, or
// is closed after a timeout, as is one that does not read the answer.
func TestClientsAreBounded(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.MaxClients, c.Timeout = 2, 400*time.Millisecond })
	dial := func() net.Conn {
		c, err := net.DialTimeout("tcp", r.door.Addr(), patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	silent, half := dial(), dial()
	if _, err := io.WriteString(half, "POST /drain HTTP/1.1\r\nHost: localhost:"+r.port()+"\r\nContent-Length: 10\r\n\r\n123"); err != nil {
		t.Fatal(err)
	}
	if res := r.raw("GET /healthz HTTP/1.1\r\nHost: localhost:" + r.port() + "\r\nConnection: close\r\n\r\n"); res.StatusCode != 200 {
		t.Errorf("the third client: got %d", res.StatusCode)
	}
	for _, c := range []net.Conn{silent, half} {
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a client that sends no request: %v", err)
		}
	}
	// One that asks and asks and reads nothing: the kernel's buffers are full before long.
	deaf := dial()
	deaf.(*net.TCPConn).SetReadBuffer(4 << 10)
	ask := "GET /metrics HTTP/1.1\r\nHost: localhost:" + r.port() + "\r\n\r\n"
	for {
		if _, err := io.WriteString(deaf, ask); err != nil {
			break // it has been closed
		}
	}
	eventually(t, "its place", func() bool {
		var st struct{ Limits []admin.Limit }
		r.get("/limits", &st)
		for _, l := range st.Limits {
			if l.Name == "admin-clients" {
				return l.Used <= 1 && l.Max == 2
			}
		}
		return false
	})
}

// However many connections ask for nothing, one that asks is served, as long as the places are not
// taken by requests: these keep theirs.
func TestConnectionsThatAskForNothingGiveWay(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.MaxClients, c.Timeout, c.Write = 2, 10*time.Minute, true })
	dial := func() net.Conn {
		c, err := net.DialTimeout("tcp", r.door.Addr(), patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	host := "Host: localhost:" + r.port() + "\r\n"
	for i := range 20 {
		c := dial()
		text := []string{"", "GET /heal", "GET /healthz HTTP/1.1\r\n" + host + "\r\n"}[i%3] // the last then keeps its connection
		if _, err := io.WriteString(c, text); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	if res := r.raw("GET /healthz HTTP/1.1\r\n" + host + "\r\n"); res.StatusCode != 200 {
		t.Errorf("behind connections that ask for nothing: got %d", res.StatusCode)
	}
	var served []*bufio.Reader
	var bodies []net.Conn
	for range 2 {
		c := dial()
		if _, err := io.WriteString(c, "POST /config HTTP/1.1\r\n"+host+"Expect: 100-continue\r\nContent-Length: 22\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(c)
		if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q, %v, want 100 Continue: the request is served", line, err)
		}
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		served, bodies = append(served, in), append(bodies, c)
	}
	third := dial()
	if _, err := io.WriteString(third, "GET /healthz HTTP/1.1\r\n"+host+"\r\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // in which it would take a place
	for i, c := range bodies {
		if _, err := io.WriteString(c, `{"idle-timeout":"90s"}`); err != nil {
			t.Error(err)
		}
		if res, err := http.ReadResponse(served[i], nil); err != nil || res.StatusCode != 200 {
			t.Errorf("a request that was being served: %v, %v", res, err)
		}
	}
	if res, err := http.ReadResponse(bufio.NewReader(third), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("behind them: %v, %v", res, err)
	}
}

// Stop waits for a request under way, and closes at its context's end.
func TestStopAndStart(t *testing.T) {
	r := open(t, nil)
	if err := r.door.Start(background); err == nil {
		t.Error("started twice")
	}
	other, err := admin.New(admin.Config{Addr: r.door.Addr(), Server: r.srv, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(background); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second door on one port: %v", err)
	}
	if other.Running() || !r.door.Running() {
		t.Error("running is not what it says")
	}
	if err := r.door.Healthy(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(background, patience)
	defer cancel()
	r.client.Close()
	for range 2 {
		if err := r.door.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	if r.door.Running() {
		t.Error("runs after Stop")
	}
	if c, err := net.Dial("tcp", r.door.Addr()); err == nil {
		c.Close()
		t.Error("listens after Stop")
	}
}

// This package does not register profiles with http.DefaultServeMux.
func TestNothingIsOnTheDefaultMux(t *testing.T) {
	req, _ := http.NewRequest("GET", "http://localhost/debug/pprof/heap", nil)
	if _, pattern := http.DefaultServeMux.Handler(req); pattern != "" {
		t.Errorf("http.DefaultServeMux has %q", pattern)
	}
}
