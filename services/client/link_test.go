package client

import (
	"context"
	"io"
	"net"
	"testing"

	"millrace/codec"
)

// A session without resume ends without a word: the writer that sees its end first says no BYE.
func TestWriterSaysNoByeWithoutResume(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ours, theirs := net.Pipe()
	l := newLink(&Client{codec: codec.Default(), ctx: ctx}, ours)
	l.s = newSession(l, nil)
	all := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(theirs)
		all <- b
	}()
	l.s.mu.Lock()
	l.s.err = ErrLost
	l.s.mu.Unlock()
	l.write()
	_ = ours.Close()
	if b := <-all; len(b) > 0 {
		t.Errorf("wrote %x", b)
	}
}
