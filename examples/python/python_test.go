// Package python has a client in Python; its test runs it against an engine.
package python

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"millrace/codec"
	"millrace/engine"
)

// server echoes 1/1 and answers 1/3 with a push on 1/2, behind a PING.
type server struct{}

func (server) OnSocketAccept(*engine.Session) {}

func (server) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Handle() {
	case 1<<16 | 1:
		s.Reply(p, p.Body)
	case 1<<16 | 3:
		s.Push(engine.SystemMain, engine.SubPing, []byte("there?"))
		s.Push(1, 2, []byte("news"))
	default:
		s.ReplyError(p, engine.CodeUnknownHandle, "nobody serves it")
	}
}

func (server) OnSocketClose(*engine.Session, engine.Reason) {}

func TestTheClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}}, server{})
	if err == nil {
		err = srv.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	cmd := exec.CommandContext(t.Context(), python, "-B", "example.py", srv.Addrs()[0].String(), "push")
	out, err := cmd.CombinedOutput()
	const want = "answer hello\nin order True\nrefused error 2 about 1/99: nobody serves it\npushed news\n"
	if err != nil || string(out) != want {
		t.Errorf("%v, it says\n%s\nwant\n%s", err, out, strings.TrimSpace(want))
	}
}
