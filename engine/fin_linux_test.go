package engine

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"millrace/codec"
)

// A peer that sends its FIN and then a reset ends its session at the reset, although nothing is
// read from it any more and its answer takes longer.
func TestAResetBehindAFinEndsTheSession(t *testing.T) {
	for _, kind := range []string{"tcp", "tls"} {
		t.Run(kind, func(t *testing.T) {
			read, fin, closed := make(chan func(), 1), make(chan bool, 1), make(chan Reason, 1)
			cfg := Config{Addrs: []string{"tcp://127.0.0.1:0"}}
			if kind == "tls" {
				cfg = Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}
			}
			srv := serve(t, cfg, &funcs{
				read:  func(s *Session, p codec.Packet) { read <- s.Hold() },
				fin:   func(*Session) { fin <- true },
				close: func(_ *Session, why Reason) { closed <- why },
			})
			raw, err := net.Dial("tcp", srv.Addrs()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			c := raw
			if kind == "tls" {
				c = tls.Client(raw, clientTLS)
			}
			c.Write(frame(1, 1, "owed"))
			release := <-read
			defer release()
			if x, ok := c.(*tls.Conn); ok {
				x.CloseWrite()
			}
			raw.(*net.TCPConn).CloseWrite()
			<-fin
			raw.(*net.TCPConn).SetLinger(0)
			raw.Close()
			select {
			case why := <-closed:
				if why != ReasonPeerReset {
					t.Errorf("closed: %v, want %v", why, ReasonPeerReset)
				}
			case <-time.After(20 * time.Second):
				t.Error("the session lives")
			}
		})
	}
}

// The requests that a client sends before it closes are all run, although the answers to the first
// find nobody: what is lost is told, and the session ends as at a FIN.
func TestRequestsInFrontOfACloseAreRun(t *testing.T) {
	for _, scheme := range []string{"tcp", "unix", "tls", "ws", "wss"} {
		for _, how := range []Dispatch{Ordered, Inline} {
			t.Run(scheme+"/"+how.String(), func(t *testing.T) {
				const n = 300
				run, closed, gone := 0, make(chan Reason, 1), make(chan bool)
				var srv *Server
				cfg := Config{Dispatch: how, Addrs: []string{scheme + "://127.0.0.1:0"}}
				if scheme == "unix" {
					cfg.Addrs[0] = "unix://" + t.TempDir() + "/s"
				}
				if scheme == "tls" || scheme == "wss" {
					cfg.TLS = serverTLS()
				}
				srv = serve(t, cfg, &funcs{
					read: func(s *Session, p codec.Packet) {
						if p.Sub == 2 { // so that the client has read all that TLS sends
							s.Reply(p, p.Body)
							return
						}
						switch run++; run {
						case 1:
							<-gone
						case 10, 20, 30: // over TCP the first answer still seems to arrive, and brings a reset
							sent := srv.Stats()
							s.Reply(p, p.Body)
							for s.Connected() {
								if now := srv.Stats(); now.BytesOut > sent.BytesOut || now.LostBytes > sent.LostBytes {
									break
								}
								time.Sleep(time.Millisecond)
							}
							return
						}
						s.Reply(p, p.Body)
					},
					close: func(_ *Session, why Reason) { closed <- why },
				})
				var c, raw net.Conn
				var err error
				if scheme == "unix" {
					c, err = net.Dial("unix", srv.Addrs()[0].String())
					raw = c
				} else {
					var cut *cutConn
					c, cut, err = dialCut(srv.URLs()[0], "", -1, -1)
					raw = cut
				}
				if err != nil {
					t.Fatal(err)
				}
				first := frame(1, 2, "first")
				if _, err := c.Write(first); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, make([]byte, len(first))); err != nil {
					t.Fatal(err)
				}
				var b []byte
				for range n {
					b = append(b, frame(1, 1, "as one pleases")...)
				}
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
				raw.Close()
				close(gone)
				if why := <-closed; why != ReasonPeerClosed || run != n {
					t.Errorf("closed: %v, %d of %d requests run", why, run, n)
				}
				if srv.Stats().LostBytes == 0 {
					t.Error("no answer was lost, so nothing was tried")
				}
			})
		}
	}
}
