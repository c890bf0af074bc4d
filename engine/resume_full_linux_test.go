package engine

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
)

// A peer that has written more than the session may hold and read nothing, so that the server has
// stopped reading, and whose connection is then reset or closed, loses nothing: what was read is run
// and its answers are kept as far as they fit, the rest waits, and what was not read it sends again.
func TestABreakAtTheLimitsLosesNothing(t *testing.T) {
	const n = 400
	for _, size := range []int{100, 6000} {
		for _, scheme := range []string{"tcp", "tls"} {
			for _, d := range []Dispatch{Adaptive, Ordered, Inline} {
				if scheme == "tls" && (size < 1000 || d == Ordered) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%v/%d", scheme, d, size), func(t *testing.T) {
					t.Parallel()
					h := newResumable()
					cfg := resumeConfig(scheme + "://127.0.0.1:0")
					cfg.Dispatch, cfg.MaxFrame, cfg.Loops = d, 8<<10, 1
					cfg.ResumeBytes, cfg.MaxOutbound, cfg.MaxPending, cfg.ReadBuffer = 8<<10, 16<<10, 16<<10, 8<<10
					cfg.SocketSendBuffer = 8 << 10
					srv := serve(t, cfg, h)
					p := hello(t, srv)
					p.ackEvery = 1
					if err := p.cut.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
						t.Fatal(err)
					}
					for i := range n {
						p.sent = append(p.sent, frame(1, 1, fmt.Sprintf("%d %s", i, strings.Repeat("x", size))))
					}
					all := bytes.Clone(bytes.Join(p.sent, nil))
					conn, written := p.conn, make(chan struct{})
					go func() {
						defer close(written)
						conn.Write(all)
					}()
					waitFor(t, "the server to stop reading", func() bool {
						return srv.Stats().Loops[0].Pauses > 0 && h.ran.Load() > 0
					})
					_ = p.cut.Conn.(*net.TCPConn).SetLinger(0)
					p.close()
					<-written
					waiting(t, srv, 1)
					if m := srv.Stats().Memory; m > 4*(16<<10+16<<10+8<<10) {
						t.Errorf("%d bytes are held for a session that waits", m)
					}
					p.reconnect(t)
					if p.resumed != 1 {
						t.Fatal("the session was not resumed")
					}
					p.want(t, n)
					p.numbered(t)
					if ran := h.ran.Load(); ran != n {
						t.Errorf("%d requests ran, want %d", ran, n)
					}
				})
			}
		}
	}
}
