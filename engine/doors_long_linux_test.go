package engine

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"millrace/codec"
)

// A WebSocket message of the server's has whole frames also where nothing tells a frame's length and it is longer than what
// is put together for one write, among broadcasts, group sends and keyed pushes.
func TestLongLinesAreNotCutBetweenMessages(t *testing.T) {
	t.Run("plain", func(t *testing.T) { longLines(t, "", 700<<10) })
	t.Run("compressed", func(t *testing.T) { longLines(t, offerDeflate+"\r\n", 700<<10) })
}

func longLines(t *testing.T, offer string, size int) {
	var srv *Server
	srv = serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Framer: must(codec.Line(1 << 20)), Doors: Doors{Deflate: true}, MaxFrame: 1 << 20, Limits: Limits{MaxOutbound: 64 << 20, MaxOutbox: 64 << 20}},
		&funcs{read: func(s *Session, p codec.Packet) {
			g := srv.Group("g")
			g.Join(s)
			for i := range 3 {
				long := bytes.Repeat([]byte{byte('a' + i)}, size+i)
				s.Broadcast(0, 0, []byte("to all"))
				s.Send(0, 0, long)
				s.SendGroup(g, 0, 0, bytes.ToUpper(long))
				s.Broadcast(0, 0, long)
				s.Send(0, 0, []byte("short"))
			}
			s.Send(0, 0, []byte("end"))
		}})
	w := upgradeConn(t, must(net.Dial("tcp", srv.Addrs()[0].String())), offer)
	defer w.Close()
	w.SetDeadline(time.Now().Add(60 * time.Second))
	w.Write(wsFrame(0x82, []byte("go\n")))
	var want, got []string
	name := func(line []byte) string { return fmt.Sprintf("%.3q %d", line, len(line)) }
	for i := range 3 {
		c := string(rune('a' + i))
		want = append(want, fmt.Sprintf("%q %d", "to ", 6), fmt.Sprintf("%q %d", c+c+c, size+i), fmt.Sprintf("%q %d", string(bytes.ToUpper([]byte(c+c+c))), size+i),
			fmt.Sprintf("%q %d", c+c+c, size+i), fmt.Sprintf("%q %d", "sho", 5))
	}
	want = append(want, fmt.Sprintf("%q %d", "end", 3))
	var zipped, plain []byte // of a message
	for len(got) < len(want) {
		first, body, err := w.next()
		if err != nil {
			t.Fatalf("behind %d lines: %v", len(got), err)
		}
		if zipped != nil || first&0x40 != 0 {
			if zipped = append(zipped, body...); first&0x80 == 0 {
				continue
			}
			plain, zipped, first = inflate(t, zipped), nil, 0x82
		} else if plain = append(plain, body...); first&0x80 == 0 {
			continue
		}
		body, plain, first = plain, nil, 0x82
		if first != 0x82 || len(body) == 0 || body[len(body)-1] != '\n' {
			t.Fatalf("behind %d lines: a message of %d bytes, %#x, ends in %q", len(got), len(body), first, body[max(0, len(body)-4):])
		}
		for line := range bytes.Lines(body) {
			got = append(got, name(line[:len(line)-1]))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
