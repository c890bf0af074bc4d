package engine

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// Connections that say nothing, as many as MaxConns, keep no session from coming back, behind
// any door, whether its peer is away or another connection takes it over; and who is over the
// limit is told so.
func TestSilentConnectionsLetOthersBy(t *testing.T) {
	for _, scheme := range []string{"tcp", "tls", "ws", "wss"} {
		for _, resume := range []bool{true, false} {
			if !resume && scheme != "ws" {
				continue
			}
			t.Run(scheme+map[bool]string{true: " resume"}[resume], func(t *testing.T) {
				cfg := resumeConfig(scheme + "://127.0.0.1:0")
				cfg.MaxConns, cfg.FirstFrameTimeout, cfg.HandshakeTimeout, cfg.Loops = 2, Off, time.Hour, 2
				if !resume {
					cfg.Resume = 0
				}
				srv := serve(t, cfg, &funcs{read: echo})
				var list []*resumer
				for range cfg.MaxConns {
					if resume {
						list = append(list, hello(t, srv))
						continue
					}
					c := dialDoor(t, srv.URLs()[0], scheme, "")
					c.SetDeadline(time.Now().Add(30 * time.Second))
					c.Write(frame(1, 1, "x"))
					expect(t, c, frame(1, 1, "x"))
				}
				silent := func() {
					for range 3 * cfg.MaxConns {
						c := must(net.Dial("tcp", srv.Addrs()[0].String()))
						t.Cleanup(func() { c.Close() })
					}
					until(t, "silent connections", func() bool { return int(srv.pending.Load())+srv.Stats().Doors.Opening >= cfg.MaxConns })
				}
				for i, p := range list {
					silent()
					if i > 0 { // else another connection takes it over
						p.close()
						waiting(t, srv, 1)
					}
					until(t, "the silent ones have had their time", func() bool { return p.connect(-1, -1) == nil })
					if p.resumed != 1 {
						t.Fatalf("resumed %d times, want once", p.resumed)
					}
					p.ask(1, 1, "here again")
					p.want(t, 1)
				}
				silent()
				for end := time.Now().Add(20 * time.Second); ; {
					err := told(t, srv.URLs()[0], scheme)
					if err == nil {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("over the limit: %v", err)
					}
				}
			})
		}
	}
}

// told opens a connection and returns nil if the server says that it is one too many.
func told(t testing.TB, url, scheme string) error {
	_, rest, _ := strings.Cut(url, "://")
	check := func(p codec.Packet) error {
		if p.Main != 0 || p.Sub != SubError || !strings.HasPrefix(string(p.Body), "\x00\x0c") {
			t.Fatalf("got %v, want ERROR 12", p)
		}
		return nil
	}
	if scheme == "tcp" || scheme == "tls" {
		c := dialDoor(t, url, scheme, "")
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(frame(1, 1, "x"))
		p, err := codec.NewReader(c, nil).Next()
		if err != nil {
			return err
		}
		return check(p)
	}
	ctx := within(t, 20*time.Second)
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS}}
	defer hc.CloseIdleConnections()
	c, _, err := websocket.Dial(ctx, scheme+"://"+rest, &websocket.DialOptions{HTTPClient: hc})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	c.Write(ctx, websocket.MessageBinary, frame(1, 1, "x"))
	_, b, err := c.Read(ctx)
	if err != nil {
		return err
	}
	p, _, _, err := must(codec.New(codec.Layout{}, 0)).Decode(b)
	if err != nil {
		return err
	}
	if _, _, end := c.Read(ctx); websocket.CloseStatus(end) != 1013 {
		t.Fatalf("got %v, want 1013", end)
	}
	return check(p)
}
