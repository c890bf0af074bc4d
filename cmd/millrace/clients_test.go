package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// An erlang socket in {packet,4} mode: a message is a u32 length and that many bytes,
// and what is in them is the application's.
type packet4 struct{ io.ReadWriter }

func (p packet4) send(msg []byte) error {
	_, err := p.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	return err
}

func (p packet4) recv() ([]byte, error) {
	var n uint32
	if err := binary.Read(p, binary.BigEndian, &n); err != nil {
		return nil, err
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(p, msg)
	return msg, err
}

func TestAnErlangPacket4SocketSpeaksToIt(t *testing.T) {
	sock := packet4{serve(t).dial().Conn}
	for _, msg := range []string{"\x00\x01\x00\x01hello", "\x00\x01\x00\x01", "\x00\x00\x00\x01ping"} {
		if err := sock.send([]byte(msg)); err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(msg, "\x00\x00\x00\x01ping", "\x00\x00\x00\x02ping", 1)
		if got, err := sock.recv(); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
}

const python = `
import json, socket, struct, sys, threading

def connect():
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
    return s, s.makefile("rb")

def send(s, main, sub, body=b""):
    s.sendall(struct.pack(">IHH", 4 + len(body), main, sub) + body)

def recv(f):
    head = f.read(8)
    assert len(head) == 8, head
    n, main, sub = struct.unpack(">IHH", head)
    return main, sub, f.read(n - 4)

s, f = connect()
send(s, 1, 1, "grüße".encode())
assert recv(f) == (1, 1, "grüße".encode())
send(s, 1, 4, json.dumps({"ms": 5}).encode())
assert json.loads(recv(f)[2]) == {"slept_ms": 5}
send(s, 1, 3)
me = json.loads(recv(f)[2])
assert me["addr"] == "%s:%d" % s.getsockname(), me
other, of = connect()
send(other, 1, 5, b'{"group": "room"}')
assert json.loads(recv(of)[2]) == {"members": 1}
send(s, 1, 7, json.dumps({"group": "room", "data": "hé"}).encode())
assert json.loads(recv(f)[2]) == {"sent": 1}
main, sub, body = recv(of)
assert (main, sub) == (1, 8) and json.loads(body) == {"group": "room", "from": me["index"], "round": me["round"], "data": "hé"}, body
n = 20000
def write():
    for i in range(0, n, 100):
        s.sendall(b"".join(struct.pack(">IHHI", 8, 1, 1, j) for j in range(i, i + 100)))
w = threading.Thread(target=write)
w.start()
for i in range(n):
    assert recv(f) == (1, 1, struct.pack(">I", i)), i
w.join()
send(s, 9, 9)
main, sub, body = recv(f)
assert (main, sub) == (0, 3) and struct.unpack(">HHH", body[:6]) == (2, 9, 9), body
s.shutdown(socket.SHUT_WR)
assert f.read() == b""
print("ok")
`

func TestAPythonSocketSpeaksToIt(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		proctest.Missing(t, "python3 is not installed")
	}
	s := serve(t)
	port := s.ready[0][strings.LastIndex(s.ready[0], ":")+1:]
	out, err := exec.Command("python3", "-c", python, port).CombinedOutput()
	if err != nil || string(out) != "ok\n" {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	s := serve(t)
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	tcp := strings.TrimPrefix(s.ready[0], "tcp://")
	for _, c := range []struct {
		name   string
		args   []string
		stdin  string
		stdout string
		stderr string
		code   int
	}{
		{"text", []string{tcp, "1/1", "hello"}, "", "1/1 hello\n", "", 0},
		{"scheme", []string{"tcp://" + tcp, "1/1", "grüße"}, "", "1/1 grüße\n", "", 0},
		{"empty", []string{tcp, "1/1"}, "", "1/1\n", "", 0},
		{"standard input", []string{tcp, "1/1", "-"}, "typed", "1/1 typed\n", "", 0},
		{"file", []string{tcp, "1/1", "@" + body}, "", "1/1 from a file\n", "", 0},
		{"hex", []string{"--hex", tcp, "1/1", "00 ff"}, "", "1/1 00ff\n", "", 0},
		{"bytes that are no text", []string{tcp, "1/1", "-"}, "\xff\x00", "1/1 hex ff00\n", "", 0},
		{"what a terminal would obey", []string{tcp, "1/1", "-"}, "\x1b[31mred\n", `1/1 "\x1b[31mred\n"` + "\n", "", 0},
		{"JSON", []string{tcp, "1/4", `{"ms":1}`}, "", `1/4 {"slept_ms":1}` + "\n", "", 0},
		{"PING", []string{tcp, "0/1", "hi"}, "", "0/2 PONG hi\n", "", 0},
		{"broadcast", []string{tcp, "1/2", "all"}, "", "1/2 all\n", "", 0},
		{"ERROR", []string{tcp, "1/4", "{}"}, "", "0/3 ERROR 3 bad_body about 1/4: serial: bad body: json: no field \"ms\" at byte 2\n", "millrace: the server answered ERROR 3 bad_body\n", 1},
		{"no answer", []string{"--timeout=2s", tcp, "1/4", `{"ms":60000}`}, "", "", "millrace: " + tcp + ": no answer to 1/4 within --timeout 2s\n", 75},
		{"not a handle", []string{tcp, "1.1"}, "", "", `millrace: MAIN/SUB "1.1": must be MAIN/SUB, two numbers of 0 to 65535, such as 1/1` + "\n", 64},
		{"no handle", []string{tcp}, "", "", "millrace: MAIN/SUB is missing, such as 1/1; it can be omitted only with --listen\n", 64},
		{"not hex", []string{"--hex", tcp, "1/1", "xy"}, "", "", `millrace: BODY "xy": with --hex it must be hexadecimal, such as 00ff` + "\n", 64},
		{"too large", []string{tcp, "1/1", "-"}, strings.Repeat("x", 65533), "", "millrace: BODY of 65533 bytes: at most 65532 fit a frame; give a larger --max-frame if the server has one\n", 64},
		{"a handle of more than two bytes", []string{"--command=main-sub-8", tcp, "300/1"}, "", "", `millrace: MAIN/SUB "300/1": 0 to 255 each with --command=main-sub-8` + "\n", 64},
		{"too large for a short length", []string{"--length-width=2", tcp, "1/1", "-"}, strings.Repeat("x", 65532), "", "millrace: BODY of 65532 bytes: at most 65531 fit a frame; give a larger --max-frame if the server has one\n", 64},
		{"not an address", []string{"7000", "1/1"}, "", "", `millrace: ADDR "7000": must be HOST:PORT, such as 127.0.0.1:7000 or [::1]:7000` + "\n", 64},
		{"an address of IPv6 without brackets", []string{"::1:7000", "1/1"}, "", "", `millrace: ADDR "::1:7000": must be HOST:PORT, such as 127.0.0.1:7000 or [::1]:7000` + "\n", 64},
		{"no such port", []string{"127.0.0.1:70000", "1/1"}, "", "", `millrace: ADDR "127.0.0.1:70000": the port must be 1 to 65535` + "\n", 64},
		{"no TLS there", []string{"tls://" + tcp, "1/1"}, "", "", "millrace: tls://" + tcp + ": tls: first record does not look like a TLS handshake; does the server listen for tls:// there?\n", 69},
		{"nobody there", []string{"127.0.0.1:1", "1/1"}, "", "", "millrace: dial tcp 127.0.0.1:1: connect: connection refused\n", 69},
		{"another layout than the server's", []string{"--byte-order=little", tcp, "1/1", "x"}, "", "", "", 76},
	} {
		t.Run(c.name, func(t *testing.T) {
			stdout, stderr, code := millrace(t, []string{"MILLRACE_LOOPS=x"}, c.stdin, append([]string{"call"}, c.args...)...)
			if code != c.code || stdout != c.stdout || stderr != c.stderr && c.stderr != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q\nwant %d, %q, %q", code, stdout, stderr, c.code, c.stdout, c.stderr)
			}
		})
	}
}

// Frames before the answer are printed too, and not mistaken for it.
func TestCallWaitsForItsOwnAnswer(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.echo("in")
	type result struct {
		out  string
		code int
	}
	done := make(chan result, 1)
	go func() {
		out, _, code := millrace(t, nil, "", "call", s.ready[0], "1/4", `{"ms":1500}`)
		done <- result{out, code}
	}()
	for {
		select {
		case r := <-done:
			lines := strings.Split(strings.TrimSpace(r.out), "\n")
			if r.code != 0 || len(lines) < 2 || lines[0] != "1/2 news" || lines[len(lines)-1] != `1/4 {"slept_ms":1500}` {
				t.Errorf("exit code %d, %q; want broadcasts, then the answer", r.code, r.out)
			}
			return
		case <-time.After(100 * time.Millisecond):
			c.send(1, 2, "news")
			c.want(1, 2, "news")
		}
	}
}

// call waits for a server that was started just before it and does not listen yet.
func TestCallWaitsForAServerThatStarts(t *testing.T) {
	defer func(d time.Duration) { startWait = d }(startWait)
	startWait = 30 * time.Second
	path := filepath.Join(t.TempDir(), "s")
	dialed := make(chan error, 1)
	go func() {
		conn, err := (&callCmd{Addr: "unix://" + path, Timeout: period(startWait)}).dial()
		if err == nil {
			conn.Close()
		}
		dialed <- err
	}()
	select {
	case err := <-dialed:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := <-dialed; err != nil {
		t.Error(err)
	}
}

func TestCallListens(t *testing.T) {
	t.Parallel()
	s := serve(t, "--heartbeat=500ms", "--idle-timeout=2s", "--first-frame-timeout=off", "--drain-to=elsewhere:7")
	cmd := exec.Command(program, "call", "--listen", s.ready[0], "1/5", `{"group":"g"}`)
	cmd.Env = environ()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	line := func(want string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want+"\n" {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	line(`1/5 {"members":1}`)
	time.Sleep(3 * time.Second) // its PONGs keep it alive
	c := s.dial()
	c.send(1, 3, "")
	me := c.parse(c.recvAmongPings())
	c.send(1, 7, `{"group":"g","data":"news"}`)
	line(fmt.Sprintf(`1/8 {"group":"g","from":%v,"round":%v,"data":"news"}`, me["index"], me["round"]))
	s.signal(syscall.SIGTERM)
	rest, err := io.ReadAll(out)
	if err != nil || !strings.HasPrefix(string(rest), "0/4 GOAWAY within ") || !strings.HasSuffix(string(rest), " to elsewhere:7\n") {
		t.Errorf("got %q, %v, want GOAWAY", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("call --listen ended with %v", err)
	}
	s.wait()
}
