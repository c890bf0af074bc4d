// Package python has a client in Python; its test runs it against an engine.
package python

import (
	"context"
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/proctest"
)

// server echoes 1/1; on 1/3 it sends a PING, and on the PONG it pushes 1/2. It has the system frames to
// itself (NoSystemFrames), so that it sees what the client does with them.
type server struct{}

func (server) OnSocketAccept(*engine.Session) {}

func (server) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Handle() {
	case 1<<16 | 1:
		s.Reply(p, p.Body)
	case 1<<16 | 3:
		s.Push(engine.SystemMain, engine.SubPing, []byte("there?"))
	case engine.SubPong:
		s.Push(1, 2, p.Body)
	default:
		about := binary.BigEndian.AppendUint32([]byte{0, byte(engine.CodeUnknownHandle)}, p.Handle())
		s.Send(engine.SystemMain, engine.SubError, append(about, "nobody serves it"...))
	}
}

func (server) OnSocketClose(*engine.Session, engine.Reason) {}

func TestTheClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		proctest.Missing(t, "python3 is not installed")
	}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, NoSystemFrames: true}, server{})
	if err == nil {
		err = srv.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	cmd := exec.CommandContext(t.Context(), python, "-B", "example.py", srv.Addrs()[0].String(), "push")
	out, err := cmd.CombinedOutput()
	const want = "answer hello\nin order True\nrefused error 2 about 1/99: nobody serves it\npushed there?\n"
	if err != nil || string(out) != want {
		t.Errorf("%v, it says\n%s\nwant\n%s", err, out, strings.TrimSpace(want))
	}
}
