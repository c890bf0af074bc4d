package gnetio

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// Two pieces that are written as one arrive as one, however little of them the kernel takes at
// once: the caller goes on behind what was taken.
func TestJoinedPiecesArriveInOrder(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10); err != nil {
		t.Fatal(err)
	}
	c := &conn{fd: int32(fds[0])}
	rnd := rand.New(rand.NewPCG(1, 2))
	var sent, got []byte
	read := func(most int) {
		b := make([]byte, most)
		if n, err := unix.Read(fds[1], b); err == nil {
			got = append(got, b[:n]...)
		}
	}
	short := 0
	for range 300 {
		piece := make([]byte, 2+rnd.IntN(20<<10))
		for i := range piece {
			piece[i] = byte(rnd.Uint32())
		}
		cut := 1 + rnd.IntN(min(len(piece)-1, 10))
		sent = append(sent, piece...)
		n, err := c.WriteJoined(piece[:cut], piece[cut:])
		for n < len(piece) && err == nil {
			short++
			read(1 + rnd.IntN(16<<10))
			var m int
			m, err = c.Write(piece[n:])
			n += m
		}
		if err != nil || n != len(piece) {
			t.Fatalf("%d of %d bytes: %v", n, len(piece), err)
		}
	}
	for len(got) < len(sent) {
		before := len(got)
		if read(64 << 10); len(got) == before {
			break
		}
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes arrived, want %d, and the same", len(got), len(sent))
	}
	if short == 0 {
		t.Error("the kernel took everything at once: nothing was shown")
	}
	unix.Close(fds[1])
	if _, err := c.WriteJoined([]byte("a"), []byte("b")); err != unix.EPIPE {
		t.Errorf("to a peer that has gone: got %v, want EPIPE", err)
	}
}
