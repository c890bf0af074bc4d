package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
)

func open(t *testing.T) (g *gateway, dial func(serial string) net.Conn, url string) {
	t.Helper()
	g, srv, err := serve("tcp://127.0.0.1:0")
	if err == nil {
		err = srv.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(g.routes())
	t.Cleanup(func() {
		web.Close()
		if err := srv.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g, func(serial string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		send(t, c, typeHello, serial)
		return c
	}, web.URL
}

func send(t *testing.T, c net.Conn, kind uint16, body string) {
	t.Helper()
	b, err := frame{}.Append(nil, codec.Packet{Main: device, Sub: kind, Body: []byte(body)})
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		t.Error(err)
	}
}

// obey answers each command with its text behind "ok ".
func obey(t *testing.T, c net.Conn) {
	for r := codec.NewFramerReader(c, frame{}); ; {
		p, err := r.Next()
		if err != nil {
			return
		}
		send(t, c, typeDone, string(p.Body[:1])+"ok "+string(p.Body[1:]))
	}
}

func ask(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(text))
}

// until asks until the answer is as wanted: what a device sends takes its time.
func until(t *testing.T, method, url, body string, status int, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		code, text := ask(t, method, url, body)
		if code == status && (want == "" || text == want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s %s: %d %q, want %d %q", method, url, code, text, status, want)
		}
	}
}

func TestReadingsAndCommands(t *testing.T) {
	_, dial, url := open(t)
	if code, text := ask(t, "GET", url+"/devices/D1", ""); code != 404 {
		t.Errorf("a device that has not come: %d %q", code, text)
	}
	c := dial("d1")
	send(t, c, typeReading, string(binary.LittleEndian.AppendUint16(nil, 215)))
	until(t, "GET", url+"/devices/D1", "", 200, "21.5")
	go obey(t, c)
	var wg sync.WaitGroup
	for i := range maxWaits {
		wg.Go(func() {
			text := fmt.Sprint("valve ", i)
			if code, out := ask(t, "POST", url+"/devices/D1", text); code != 200 || out != "ok "+text {
				t.Errorf("%s: %d %q", text, code, out)
			}
		})
	}
	wg.Wait()
}

func TestADeviceThatGoesEndsItsCommands(t *testing.T) {
	g, dial, url := open(t)
	c := dial("D1")
	until(t, "GET", url+"/devices/D1", "", 200, "0.0")
	failed := make(chan error, 1)
	go func() { _, err := g.command("D1", "sleep"); failed <- err }()
	if _, err := codec.NewFramerReader(c, frame{}).Next(); err != nil { // the command is there
		t.Fatal(err)
	}
	c.Close()
	if err := <-failed; err != errGone {
		t.Errorf("got %v, want %v", err, errGone)
	}
	until(t, "GET", url+"/devices/D1", "", 404, "")
}

func TestADeviceThatComesAgainIsTheNewOne(t *testing.T) {
	_, dial, url := open(t)
	old := dial("D1")
	until(t, "GET", url+"/devices/D1", "", 200, "")
	go obey(t, dial("D1"))
	if n, err := old.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the old connection was sent %d bytes, %v, want its end", n, err)
	}
	until(t, "POST", url+"/devices/D1", "x", 200, "ok x")
}

func TestWhoSpeaksOtherwiseIsClosed(t *testing.T) {
	_, dial, _ := open(t)
	for _, c := range []struct{ name, bytes string }{
		{"no start byte", "hello"},
		{"a wrong CRC", "\x7e\x00\x00\x02\x00\x00"},
		{"a long body", "\x7e\xff\xff\x02"},
	} {
		conn := dial("D2")
		if _, err := conn.Write([]byte(c.bytes)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v, want the end", c.name, n, err)
		}
	}
}
