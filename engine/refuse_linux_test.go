package engine

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"millrace/codec"
)

// A refused client whose request has already come when it is closed at once, is not
// reset for it.
func TestRefusedAtOnceWithoutReset(t *testing.T) {
	gate := make(chan bool)
	srv := serve(t, Config{Loops: 1, MaxConns: 1, MaxRefused: 1, Dispatch: Inline}, &funcs{read: func(s *Session, p codec.Packet) { <-gate }})
	dial(t, srv).send(1, 1, "") // holds the loop up
	var refused []*client
	for range 8 {
		c := dial(t, srv)
		c.send(1, 1, "already there")
		refused = append(refused, c)
	}
	time.Sleep(20 * time.Millisecond)
	close(gate)
	for i, c := range refused {
		c.expectError(CodeLimit, 0)
		c.expectEOF()
		raw, err := c.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Fatal(err)
			}
			if info.State != unix.BPF_TCP_CLOSE_WAIT {
				t.Errorf("client %d: TCP state %d, want CLOSE_WAIT", i, info.State)
			}
		})
	}
}
