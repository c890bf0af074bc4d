package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// The program answers, and ends by itself when it is told to.
func TestTheProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.Command("go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), file, "tcp://127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(ready), "ready tcp://")
	if err != nil || !ok {
		t.Fatalf("it says %q, %v", ready, err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	c.Write(codec.Packet{Main: 7, Sub: 9, Body: []byte("hello")}.Append(nil))
	if p, err := codec.NewReader(c, nil).Next(); err != nil || p.Main != 7 || p.Sub != 9 || string(p.Body) != "hello" {
		t.Errorf("got %v, %v", p, err)
	}
	c.Close()
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("its end: %v", err)
	}
}
