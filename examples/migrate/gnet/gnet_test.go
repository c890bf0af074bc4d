package gnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"

	"millrace/codec"
	"millrace/engine"
)

// booting tells when gnet serves.
type booting struct {
	theirs
	booted chan gnet.Engine
}

func (s *booting) OnBoot(eng gnet.Engine) gnet.Action {
	s.booted <- eng
	return gnet.None
}

// One client for both: frames in many pieces, pipelined, come back as they went; after a length that
// can't be the connection ends.
func try(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	var sent []byte
	for i := range 1000 {
		sent = codec.Packet{Main: 1, Sub: uint16(i), Body: bytes.Repeat([]byte{byte(i)}, i)}.Append(sent)
	}
	go func() {
		for piece := sent; len(piece) > 0; {
			n := min(len(piece), 777)
			if _, err := c.Write(piece[:n]); err != nil {
				return
			}
			piece = piece[n:]
		}
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came back otherwise than they went, %v", len(got), err)
	}
	c.Write([]byte{0, 0, 0, 3})
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

func TestTheirs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := &booting{booted: make(chan gnet.Engine, 1)}
	ended := make(chan error, 1)
	go func() { ended <- gnet.Run(s, "tcp://"+addr) }()
	select {
	case eng := <-s.booted:
		defer func() { eng.Stop(context.Background()); <-ended }()
	case err := <-ended:
		t.Fatal(err)
	}
	try(t, addr)
}

func TestOurs(t *testing.T) {
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}}, ours{})
	if err == nil {
		err = srv.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	try(t, srv.Addrs()[0].String())
}
