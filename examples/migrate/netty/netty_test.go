package netty

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = time.Minute

// visitor is a client of either server.
type visitor struct {
	t *testing.T
	*net.TCPConn
	r *bufio.Reader
}

func visit(t *testing.T, addr string) *visitor {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &visitor{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func frame(kind uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(2+len(text)))
	return append(binary.BigEndian.AppendUint16(b, kind), text...)
}

// send sends a frame in two pieces.
func (v *visitor) send(kind uint16, text string) {
	v.t.Helper()
	b := frame(kind, text)
	for _, piece := range [][]byte{b[:3], b[3:]} {
		if _, err := v.Write(piece); err != nil {
			v.t.Fatal(err)
		}
	}
}

func (v *visitor) hears(kind uint16, text string) {
	v.t.Helper()
	want := frame(kind, text)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(v.r, got); err != nil || !bytes.Equal(got, want) {
		v.t.Fatalf("heard %.100q, %v, want %.100q", got, err, want)
	}
}

// rest reads to the end, which is that of a connection closed by the server, and returns the bytes.
func (v *visitor) rest() int64 {
	v.t.Helper()
	n, err := io.Copy(io.Discard, v.r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		v.t.Fatalf("the end after %d bytes: %v", n, err)
	}
	return n
}

// try is one test for both.
func try(t *testing.T, addr string) {
	t.Helper()
	ann, ben := visit(t, addr), visit(t, addr)
	ann.send(1, "ann")
	ann.hears(1, "welcome, ann")
	ben.send(1, "ben")
	ben.hears(1, "welcome, ben")
	for _, text := range []string{"hello", "", "and good bye"} {
		ann.send(2, text)
		ann.hears(3, "ann: "+text)
		ben.hears(3, "ann: "+text)
	}

	stranger := visit(t, addr)
	stranger.send(2, "I have not entered")
	if n := stranger.rest(); n > 0 {
		t.Errorf("a stranger heard %d bytes", n)
	}
	long := visit(t, addr)
	long.send(2, strings.Repeat("x", 4095))
	if n := long.rest(); n > 0 {
		t.Errorf("a frame that is too long was answered with %d bytes", n)
	}

	mute := visit(t, addr)
	mute.send(1, "mute")
	mute.hears(1, "welcome, mute")
	text := strings.Repeat("x", 3<<10)
	const lines = 6000 // 18 MiB: more than the buffers of the system
	for range lines {
		ann.send(2, text)
		ann.hears(3, "ann: "+text)
		ben.hears(3, "ann: "+text)
	}
	if n := mute.rest(); n >= lines*int64(len(text)) {
		t.Errorf("a client that did not read was sent all %d bytes", n)
	}
}

// jars are those of Netty that the program needs, as Debian names them.
const jars = "/usr/share/java"

// theirs starts the program of Theirs.java and returns its address.
func theirs(t *testing.T) string {
	t.Helper()
	var path []string
	for _, part := range []string{"common", "buffer", "resolver", "transport", "codec", "handler"} {
		path = append(path, jars+"/netty-"+part+".jar")
	}
	_, err := exec.LookPath("javac")
	if err == nil {
		_, err = os.Stat(path[0])
	}
	if err != nil {
		if os.Getenv("CI") != "" { // test.sh installs them
			t.Fatal(err)
		}
		t.Skip("needs a JDK and Netty, as by apt-get install default-jdk-headless libnetty-java:", err)
	}
	cmd := exec.Command("java", "-XX:TieredStopAtLevel=1", "-cp", strings.Join(path, ":"), "Theirs.java")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		late.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if port, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			return "127.0.0.1:" + port
		}
	}
	cmd.Wait()
	t.Fatalf("it has not started:\n%s", stderr.String())
	return ""
}

func TestTheirs(t *testing.T) { try(t, theirs(t)) }

func TestOurs(t *testing.T) {
	srv, err := serve("tcp://127.0.0.1:0")
	if err == nil {
		err = srv.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	try(t, srv.Addrs()[0].String())
}
