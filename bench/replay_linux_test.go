package bench

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/capture"
)

// recordedServer answers 1/1 and 1/3, pushes 2/4, and refuses 9/9.
type recordedServer struct{}

func (recordedServer) OnSocketAccept(*engine.Session)               {}
func (recordedServer) OnSocketClose(*engine.Session, engine.Reason) {}
func (recordedServer) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch {
	case p.Main == 9:
		_ = s.ReplyError(p, engine.CodeUnknownHandle, "none")
	case p.Sub == 2:
		for range 3 {
			_ = s.Push(1, 2, p.Body)
		}
	default:
		_ = s.Reply(p, p.Body)
	}
}

// recording makes one of two sessions.
func recording(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "r.pcapng")
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	w, err := capture.Create(capture.Config{Path: path, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Tap: w, Logger: quiet}, recordedServer{})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		answers := 0
		for range 5 {
			var out []byte
			for _, h := range []uint32{handleEcho, handleWhoami, handleBroadcast, 9<<16 | 9} {
				out = appendFrame(out, h, []byte("recorded"))
			}
			c.Write(out)
			answers += 6
		}
		r := codec.NewReader(c, nil)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		for range answers {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	srv.Stop(ctx)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// A replay asks what was answered once for each request, over and over, and notices an
// answer that nobody asked for, and an ERROR that the recording does not have.
func TestReplayAsksWhatWasRecorded(t *testing.T) {
	path := recording(t)
	refuse := func(c *fakeConn, h uint32) {
		c.send(handleError, append(binary.BigEndian.AppendUint32([]byte{0, 2}, h), "none"...))
	}
	asked := make(chan uint32, 1)
	r := measureFake(t, startFake(t, func(_ *fakeServer, c *fakeConn, h uint32, b []byte) {
		switch {
		case h == 9<<16|9:
			refuse(c, h)
		case h == handleBroadcast || string(b) != "recorded":
			select {
			case asked <- h:
			default:
			}
		default:
			c.send(h, b)
			c.send(handleTimerFire, b) // a push
		}
	}).target(), "replay/3x4/file:"+path)
	if r.Error != "" || r.Messages == 0 {
		t.Errorf("got %+v", r)
	}
	select {
	case h := <-asked:
		t.Errorf("%s was asked", handleName(h))
	default:
	}
	for want, answer := range map[string]reply{
		"unexpected frame 1/3": func(_ *fakeServer, c *fakeConn, h uint32, b []byte) { c.send(handleWhoami, b) },
		"ERROR 2 unknown_handle about 1/1": func(_ *fakeServer, c *fakeConn, h uint32, b []byte) {
			if h == handleEcho || h == 9<<16|9 {
				refuse(c, h)
				return
			}
			c.send(h, b)
		},
	} {
		if r := measureFake(t, startFake(t, answer).target(), "replay/1x8/file:"+path); !strings.Contains(r.Error, want) {
			t.Errorf("got %q, want %q", r.Error, want)
		}
	}
	if r := measureFake(t, startFake(t, honest).target(), "replay/1/file:"+path+"x"); !strings.Contains(r.Error, "the recording") {
		t.Errorf("no such file: got %q", r.Error)
	}
}
