package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
	"millrace/services/client"
)

// at is a server behind a door that answers each request with its name, the first one with a
// GOAWAY in front if there is where to go. WebSockets have the path /chat.
func at(t testing.TB, door, name string, to *atomic.Pointer[string]) (host string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{TB: t, ln: ln, codec: codec.Default(), peers: make(chan *peer, 100)}
	f.handle = func(p *peer, pk codec.Packet) {
		if s := to.Swap(nil); s != nil {
			p.send(codec.Packet{Sub: 4, Body: append(binary.BigEndian.AppendUint32(nil, 1000), *s...)})
		}
		p.send(codec.Packet{Main: pk.Main, Sub: pk.Sub, Body: []byte(name)})
	}
	if door == "tls" || door == "wss" {
		f.ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	}
	if door == "tcp" || door == "tls" {
		f.wg.Go(f.accept)
		t.Cleanup(f.stop)
		return ln.Addr().String()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/chat", func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"millrace"}})
		if err != nil {
			return
		}
		p := &peer{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), f}
		in := codec.NewReader(p, f.codec)
		for pk, err := in.Next(); err == nil; pk, err = in.Next() {
			f.handle(p, pk)
		}
		_ = ws.CloseNow()
	})
	web := &http.Server{Handler: mux}
	f.wg.Go(func() { _ = web.Serve(f.ln) })
	t.Cleanup(func() {
		_ = web.Close()
		f.wg.Wait()
	})
	return ln.Addr().String()
}

// A client goes where a GOAWAY says, to a bare HOST:PORT through the same kind of door and
// with the same path, and never from an encrypted connection to one that is not.
func TestGoAwayIsFollowedThroughEachDoor(t *testing.T) {
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(certificate().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	var none, goTo atomic.Pointer[string]
	for _, door := range []string{"tcp", "tls", "ws", "wss"} {
		path := ""
		if door == "ws" || door == "wss" {
			path = "/chat"
		}
		here, there := at(t, door, "here", &goTo), at(t, door, "there", &none)
		tries := map[string]string{there: "there", door + "://" + there + path: "there"}
		if door == "tls" || door == "wss" {
			tries["tcp://"+at(t, "tcp", "clear", &none)] = "here"
			tries["ws://"+at(t, "ws", "clear", &none)+"/chat"] = "here"
		}
		for to, want := range tries {
			goTo.Store(&to)
			c, err := client.Dial(soon(t), client.Config{Addrs: []string{door + "://" + here + path}, MinBackoff: time.Millisecond, TLS: &tls.Config{RootCAs: pool}})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"here", want} {
				if b, err := c.Do(soon(t), hEcho, nil); string(b) != want || err != nil {
					t.Errorf("%s, GOAWAY to %s: got %q, %v, want %q", door, to, b, err, want)
				}
			}
			if conns, _ := c.Stats(); conns != 2 {
				t.Errorf("%s, GOAWAY to %s: %d connections, want 2", door, to, conns)
			}
			c.Close()
		}
	}
}

func TestWhereAGoAwayLeads(t *testing.T) {
	for _, c := range []struct{ at, to, want string }{
		{"a:1", "b:2", "tcp://b:2"},
		{"a:1", "", ""},
		{"ws://a:1", "b:2", "ws://b:2"},
		{"ws://a:1/x/y?z=/", "b:2", "ws://b:2/x/y?z=/"},
		{"ws://a:1/x", "b:2/y", "ws://b:2/y"},
		{"ws://a:1/x", "[::1]:2", "ws://[::1]:2/x"},
		{"unix:///s", "b:2", "tcp://b:2"},
		{"tls+unix:///s", "b:2", "tls://b:2"},
		{"wss+unix:///s:/x", "b:2", "wss://b:2/x"},
		{"ws+unix:///s", "b:2", "ws://b:2"},
		{"tcp://a:1", "wss://b:2/x", "wss://b:2/x"},
		{"ws://a:1", "tcp://b:2", "tcp://b:2"},
		{"wss://a:1/x", "tls://b:2", "tls://b:2"},
		{"tls://a:1", "wss+unix:///s", "wss+unix:///s"},
		{"tls://a:1", "unix:///s", ""},
		{"wss://a:1", "ws://b:2", ""},
		{"tls+unix:///s", "tcp://b:2", ""},
	} {
		if got := client.Follow(c.at, c.to); got != c.want {
			t.Errorf("from %s, GOAWAY to %q: got %q, want %q", c.at, c.to, got, c.want)
		}
	}
}
