package engine

import (
	"net"
	"strings"
	"testing"

	"millrace/codec"
)

// A Tap sees each session's bytes once, in order, between Opened and Closed, in every
// dispatch and through every door; and what a session is known by stays what it is.
func TestTapSeesAllOfASession(t *testing.T) {
	for _, d := range dispatches {
		for _, scheme := range []string{"tcp", "tls", "ws", "wss"} {
			t.Run(d.String()+" "+scheme, func(t *testing.T) {
				show := &shown{}
				srv := serve(t, Config{Dispatch: d, Tap: show, Doors: Doors{TLS: serverTLS()}, Addrs: []string{scheme + "://127.0.0.1:0"}}, &funcs{read: echo})
				nc := dialDoor(t, srv.URLs()[0], scheme, "")
				c := &client{Conn: nc, t: t, r: codec.NewReader(nc, nil)}
				var sent []byte
				for i := range 50 {
					b := frame(1, uint16(i), strings.Repeat("y", i*100))
					sent = append(sent, b...)
					if _, err := c.Write(b); err != nil {
						t.Fatal(err)
					}
				}
				for i := range 50 {
					c.expect(1, uint16(i), strings.Repeat("y", i*100))
				}
				srv.Sessions(func(s *Session) bool {
					if s.Transport() != scheme || (s.TLS() != nil) != (scheme == "tls" || scheme == "wss") || s.RemoteAddr() == nil {
						t.Errorf("the session's transport is %s, its TLS %v", s.Transport(), s.TLS() != nil)
					}
					return true
				})
				c.Close()
				waitFor(t, "the end", func() bool { return srv.table.count() == 0 })
				show.mu.Lock()
				defer show.mu.Unlock()
				if string(show.in) != string(sent) || string(show.out) != string(sent) {
					t.Errorf("the Tap was shown %d bytes in and %d out, want %d each", len(show.in), len(show.out), len(sent))
				}
				if n := len(show.calls); n < 4 || show.calls[0] != "opened" || !strings.HasPrefix(show.calls[n-1], "closed peer_") {
					t.Errorf("calls %v", show.calls)
				}
			})
		}
	}
}

// A loop that is held up is handed over with its sessions' connections, taps or none.
func TestRecordedLoopIsHandedOver(t *testing.T) {
	gate := make(chan struct{})
	srv := serve(t, Config{Loops: 1, Dispatch: Inline, Recorder: RecorderErrors}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 4 {
			<-gate
		}
		echo(s, p)
	}})
	held, other := dial(t, srv), dial(t, srv)
	for _, c := range []*client{held, other} {
		c.send(1, 1, "in")
		c.expect(1, 1, "in")
	}
	held.send(1, 4, "")
	for range 100 {
		other.send(1, 1, "meanwhile")
		other.expect(1, 1, "meanwhile")
	}
	close(gate)
	held.expect(1, 4, "")
	held.Conn.(*net.TCPConn).CloseWrite()
	held.expectEOF()
	if n := srv.Stats().Loops[0].HandOver; n == 0 {
		t.Error("the loop was not handed over")
	}
	srv.Sessions(func(s *Session) bool {
		if s.RemoteAddr().String() == other.LocalAddr().String() {
			inOrder(t, s.Flight(), "in 1/1, 17 bytes", "out 1/1, 17 bytes")
		}
		return true
	})
}
