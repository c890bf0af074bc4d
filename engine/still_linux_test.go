package engine

import (
	"io"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// A peer that reads slowly, but never stands still, gets all that was sent in front of the end, also
// while the kernel, or a door, has so much of it that the session can write nothing for long.
func TestASlowReaderIsNotAStillOne(t *testing.T) {
	t.Parallel()
	const frames, body = 100, 32 << 10
	cfg := Config{Socket: Socket{SocketSendBuffer: 1 << 20}, Limits: Limits{MaxOutbound: 4 << 20}, Timeouts: Timeouts{Linger: 4 * time.Second}}
	everyDoor(t, &cfg)
	srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
		for range frames {
			s.Reply(p, make([]byte, body))
		}
		s.Close()
	}})
	for _, url := range srv.URLs() {
		scheme, _, _ := strings.Cut(url, "://")
		door, _, _ := strings.Cut(scheme, "+")
		if door == "auto" {
			continue
		}
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			c := dialDoor(t, url, door, "")
			c.SetDeadline(time.Now().Add(60 * time.Second))
			c.Write(frame(1, 1, ""))
			got := 0
			for begun := time.Now(); time.Since(begun) < 6*time.Second; time.Sleep(10 * time.Millisecond) {
				n, err := io.ReadFull(c, make([]byte, 1<<10))
				if got += n; err != nil {
					t.Fatalf("%v behind %d bytes", err, got)
				}
			}
			n, err := io.Copy(io.Discard, c)
			if got += int(n); err != nil || got != frames*(8+body) {
				t.Errorf("%d bytes, %v, want %d", got, err, frames*(8+body))
			}
		})
	}
}
