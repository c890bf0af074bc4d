package engine

import (
	"crypto/tls"
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
