package engine

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"millrace/codec"
)

// A peer that has written many requests and reads nothing, so that nothing it acknowledges could have
// come, and whose connection then breaks loses nothing, however small the ring is: what the kernels
// have taken has not been read, and is kept as far as MaxOutbound allows.
func TestWhatWaitsInTheKernelsIsKept(t *testing.T) {
	t.Parallel()
	const n = 1500
	for _, scheme := range []string{"tcp", "tls", "ws", "wss"} {
		for _, loops := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d", scheme, loops), func(t *testing.T) {
				t.Parallel()
				h := newResumable()
				var s atomic.Pointer[Session]
				h.accept = func(x *Session) { s.Store(x) }
				cfg := resumeConfig(scheme + "://127.0.0.1:0")
				cfg.Loops, cfg.ResumeBytes, cfg.MaxOutbound, cfg.MaxPending = loops, 4<<10, 512<<10, 16<<10
				cfg.SocketSendBuffer, cfg.SocketRecvBuffer = 8<<10, 8<<10
				srv := serve(t, cfg, h)
				p := hello(t, srv)
				if err := p.cut.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					p.sent = append(p.sent, frame(1, 1, fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000))))
				}
				all := bytes.Clone(bytes.Join(p.sent, nil))
				conn, written := p.conn, make(chan struct{})
				go func() {
					defer close(written)
					conn.Write(all)
				}()
				waitFor(t, "a full socket", func() bool { return s.Load() != nil && isBlocked(s.Load().conn.(*line)) })
				p.close()
				<-written
				waiting(t, srv, 1)
				p.ackEvery = 1
				p.reconnect(t)
				p.want(t, n)
				p.numbered(t)
				if ran := h.ran.Load(); ran != n {
					t.Errorf("%d requests ran, want %d", ran, n)
				}
			})
		}
	}
}

// numbered fails unless each answer begins with its number.
func (p *resumer) numbered(t *testing.T) {
	t.Helper()
	for i, f := range p.got {
		if head, _, _ := strings.Cut(string(f.Body), " "); head != fmt.Sprint(i) || f.Main != 1 {
			t.Fatalf("answer %d is %d/%d %.20q", i, f.Main, f.Sub, f.Body)
		}
	}
}

// isBlocked reports whether the socket of a line's link takes no more.
func isBlocked(ln *line) bool {
	ln.mu.Lock()
	k := ln.link
	ln.mu.Unlock()
	blocked := make(chan bool)
	k.loop.onLoop(func(*loop) { blocked <- k.blocked })
	return <-blocked
}

// A peer that reads what it has asked for, and whose acknowledgements come behind all its requests, is
// sent all of it whatever the size of an answer is beside the limits.
func TestAcknowledgementsBehindAllRequests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ resume, outbound, body, n int }{
		{8 << 10, 8 << 10, 1000, 400},
		{8 << 10, 8 << 10, 4<<10 - 8, 60}, // two fill the ring exactly
		{8 << 10, 8 << 10, 6000, 40},
		{8 << 10, 8 << 10, 20_000, 20},
		{16 << 10, 8 << 10, 8<<10 - 8, 40},
		{4 << 10, 16 << 10, 8<<10 - 8, 40},
		{4 << 10, 16 << 10, 1000, 400},
	} {
		t.Run(fmt.Sprint(c.resume, "/", c.outbound, "/", c.body), func(t *testing.T) {
			t.Parallel()
			cfg := resumeConfig("tcp://127.0.0.1:0")
			cfg.ResumeBytes, cfg.MaxOutbound, cfg.MaxPending = c.resume, c.outbound, 8<<10
			cfg.SocketRecvBuffer, cfg.FrameTimeout = 8<<10, Off
			h := newResumable()
			srv := serve(t, cfg, h)
			p := hello(t, srv)
			request := frame(1, 1, strings.Repeat("x", c.body))
			p.sent = make([][]byte, c.n)
			acks := make(chan uint64, c.n)
			defer close(acks)
			go func(conn net.Conn) {
				conn.Write(bytes.Repeat(request, c.n))
				for n := range acks {
					conn.Write(codec.Packet{Sub: SubAck, Body: p.count(n)}.Append(nil))
				}
			}(p.conn)
			for n := range c.n {
				p.want(t, n+1)
				acks <- p.received
			}
			if ran := h.ran.Load(); ran != int64(c.n) || srv.detaches.Load() != 0 {
				t.Errorf("%d requests ran, %d breaks; want %d, none", ran, srv.detaches.Load(), c.n)
			}
		})
	}
}
