package main

import (
	"crypto/tls"
	"fmt"
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

// tool is the path of a program that a test needs, or skips it.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/bin/" + name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	proctest.Missing(t, "no "+name+" here")
	return ""
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

const pythonDoors = `
import asyncio, socket, ssl, struct, sys
import websockets

trust = ssl.create_default_context(cafile=sys.argv[3])

def frame(main, sub, body=b""):
    return struct.pack(">IHH", 4 + len(body), main, sub) + body

raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
s = trust.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
body = b"x" * 60000
s.sendall(frame(1, 1, body) + frame(1, 1))
want = frame(1, 1, body) + frame(1, 1)
got = b""
while len(got) < len(want):
    got += s.recv(1 << 16)
assert got == want
s.unwrap() # close_notify both ways

async def main():
    async with websockets.connect("wss://localhost:%s/chat" % sys.argv[2], ssl=trust, subprotocols=["millrace"], compression=None) as w:
        assert w.subprotocol == "millrace"
        await w.send(frame(1, 1, b"one") + frame(1, 1, b"two")[:5])
        assert await w.recv() == frame(1, 1, b"one")
        await w.send([frame(1, 1, b"two")[5:9], frame(1, 1, b"two")[9:]])
        assert await w.recv() == frame(1, 1, b"two")
        await (await w.ping(b"there?"))
        await w.send(frame(1, 1, body))
        assert await w.recv() == frame(1, 1, body)
        await w.close(4321, "done")
        assert w.close_code == 4321, w.close_code
    async with websockets.connect("wss://localhost:%s/chat" % sys.argv[2], ssl=trust, compression="deflate") as w:
        assert [e.name for e in w.extensions] == ["permessage-deflate"], w.extensions
        for n in (0, 1, 100, 200, 5000, 60000):
            await w.send(frame(1, 1, body[:n]))
            got = b""
            while len(got) < 8 + n:
                got += await w.recv()
            assert got == frame(1, 1, body[:n])
    w = await websockets.connect("wss://localhost:%s/chat" % sys.argv[2], ssl=trust)
    await w.send("text")
    try:
        await w.recv()
    except websockets.exceptions.ConnectionClosed:
        pass
    assert w.close_code == 1003, w.close_code
    w = await websockets.connect("wss://localhost:%s/chat" % sys.argv[2], ssl=trust)
    await w.send(struct.pack(">I", 3))
    error = await w.recv()
    assert error[4:10] == struct.pack(">HHH", 0, 3, 1), error
    try:
        await w.recv()
    except websockets.exceptions.ConnectionClosed:
        pass
    assert w.close_code == 1002, w.close_code

asyncio.run(main())
print("ok")
`

// Clients that nobody here wrote come through the doors.
func TestOthersComeThroughTheDoors(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "localhost")
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--addr", "wss://127.0.0.1:0/chat", "--addr", "ws://127.0.0.1:0", "--tls-cert", cert, "--tls-key", key, "--ws-compress")
	port := func(i int) string { _, p, _ := net.SplitHostPort(hostOf(s.ready[i])); return p }
	t.Run("python", func(t *testing.T) {
		python := "/usr/bin/python3" // Debian's packages are for this one
		if exec.Command(python, "-c", "import websockets").Run() != nil {
			proctest.Missing(t, "no python3-websockets here")
		}
		out, err := exec.Command(python, "-c", pythonDoors, port(0), port(1), cert).CombinedOutput()
		if err != nil || string(out) != "ok\n" {
			t.Errorf("%v:\n%s", err, out)
		}
	})
	t.Run("openssl", func(t *testing.T) {
		for _, v := range []string{"-tls1_2", "-tls1_3"} {
			cmd := exec.Command(tool(t, "openssl"), "s_client", "-quiet", v, "-CAfile", cert, "-verify_return_error", "-connect", hostOf(s.ready[0]))
			cmd.Stdin = strings.NewReader("\x00\x00\x00\x09\x00\x01\x00\x01hello")
			in, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 13)
			_, err := in.Read(got)
			if err != nil || !strings.HasSuffix(string(got), "hello") {
				t.Errorf("%s: %q, %v", v, got, err)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		out, err := exec.Command(tool(t, "openssl"), "s_client", "-tls1_1", "-connect", hostOf(s.ready[0])).CombinedOutput()
		if err == nil {
			t.Errorf("TLS 1.1 was served: %s", out)
		}
	})
	t.Run("curl", func(t *testing.T) {
		out, err := exec.Command(tool(t, "curl"), "-s", "-i", "-m", "20", "http://"+hostOf(s.ready[2])+"/").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 426 ") || !strings.Contains(string(out), "Sec-WebSocket-Version: 13") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("call", func(t *testing.T) {
		for _, url := range s.ready {
			out, stderr, code := millrace(t, nil, "", "call", "--tls-ca", cert, url, "1/1", "hello")
			if out != "1/1 hello\n" || code != 0 {
				t.Errorf("%s: exit code %d, %q, %q", url, code, out, stderr)
			}
		}
		if _, stderr, code := millrace(t, nil, "", "call", s.ready[0], "1/1"); code != 69 || !strings.Contains(stderr, "certificate") {
			t.Errorf("an unknown authority: exit code %d, %q", code, stderr)
		}
	})
}

// Behind haproxy the address is the client's, with both versions of the header, whatever
// stands behind the addresses in it; and haproxy's own checks find the server up.
func TestHAProxyInFront(t *testing.T) {
	t.Parallel()
	haproxy := tool(t, "haproxy")
	s := serve(t, "--addr", "tcp://127.0.0.1:0", "--addr", "ws://127.0.0.1:0", "--addr", "tls://127.0.0.1:0", "--addr", "wss://127.0.0.1:0", "--addr", "auto://127.0.0.1:0",
		"--tls-self-signed", "--proxy-protocol", "127.0.0.1/32,::1/128")
	dir := t.TempDir()
	conf := "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n unique-id-format one-%pid-%rt\n"
	var fronts []string
	var listeners []*os.File // haproxy's, so that nobody takes their ports meanwhile
	for i, url := range s.ready {
		for n, send := range []string{"send-proxy check inter 100ms", "send-proxy-v2", "send-proxy-v2 check inter 100ms proxy-v2-options crc32c,unique-id,authority"} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			own, err := ln.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			listeners = append(listeners, own)
			scheme, _, _ := strings.Cut(url, "://")
			if scheme == "auto" {
				scheme = "wss"
			}
			fronts = append(fronts, scheme+"://"+ln.Addr().String())
			conf += fmt.Sprintf("listen front%d-%d\n bind fd@%d\n server s %s %s\n", i, n, 2+len(listeners), hostOf(url), send)
		}
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(haproxy, "-db", "-f", file)
	cmd.ExtraFiles = listeners
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, front := range fronts {
		var out, stderr string
		for end, code := time.Now().Add(30*time.Second), 1; code != 0; {
			out, stderr, code = millrace(t, nil, "", "call", "--tls-insecure", front, "1/3")
			if code != 0 && time.Now().After(end) {
				t.Fatalf("%s: exit code %d, %s", front, code, stderr)
			}
		}
		if !strings.Contains(out, `"addr":"127.0.0.1:`) {
			t.Errorf("%s: %s", front, out)
		}
	}
	if _, _, code := millrace(t, nil, "", "call", s.ready[0], "1/3"); code == 0 {
		t.Error("a trusted source without a header was served")
	}
}

// New certificates are seen on SIGHUP and by themselves, and the name chooses.
func TestCertificatesChangeWhileItServes(t *testing.T) {
	t.Parallel()
	one, oneKey := certificate(t, "one.example")
	two, twoKey := certificate(t, "two.example")
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--tls-cert", one, "--tls-key", oneKey, "--tls-cert", two, "--tls-key", twoKey)
	served := func(name string) (common, serial string) {
		c, err := tls.Dial("tcp", hostOf(s.ready[0]), &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		leaf := c.ConnectionState().PeerCertificates[0]
		return leaf.Subject.CommonName, leaf.SerialNumber.String()
	}
	for asked, want := range map[string]string{"one.example": "one.example", "two.example": "two.example", "else.example": "one.example"} {
		if got, _ := served(asked); got != want {
			t.Errorf("asked for %s: got %s, want %s", asked, got, want)
		}
	}
	old, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []string{"no PEM", string(old[:len(old)/2])} { // what is half written stays out
		_, before := served("two.example")
		lines := strings.Count(s.log(), "the previous ones stay in use")
		if err := os.WriteFile(two, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		for end := time.Now().Add(30 * time.Second); strings.Count(s.log(), "the previous ones stay in use") == lines; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no line about a broken certificate")
			}
		}
		if _, now := served("two.example"); now != before {
			t.Error("another certificate is served while its files are broken")
		}
	}
	for _, how := range []string{"signal", "by itself"} {
		_, before := served("two.example")
		writeCertificate(t, "two.example", two, twoKey)
		if how == "signal" {
			s.signal(syscall.SIGHUP)
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, now := served("two.example"); now != before {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: the new certificate is not served", how)
			}
		}
	}
}

// What can't be is told in one line that says which setting and the way out.
func TestDoorsThatCannotBe(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "localhost")
	locked := filepath.Join(t.TempDir(), "locked.pem")
	if err := os.WriteFile(locked, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--addr=tls://127.0.0.1:0"}, "needs a certificate: give --tls-cert and --tls-key, or --tls-self-signed"},
		{[]string{"--tls-cert=/nowhere", "--tls-key=" + key}, "--tls-cert, --tls-key: /nowhere"},
		{[]string{"--tls-cert=" + cert, "--tls-key=" + cert}, "name a certificate and its key"},
		{[]string{"--tls-cert=" + cert}, "give them in pairs"},
		{[]string{"--tls-client-ca=/nowhere", "--tls-self-signed"}, `--tls-client-ca "/nowhere"`},
		{[]string{"--addr=tls://127.0.0.1:0", "--addr=auto://127.0.0.1:0", "--tls-self-signed", "--tls-client-ca=" + cert}, `--addr "auto://127.0.0.1:0": also accepts clients without TLS, which would bypass --tls-client-ca: use tls://, or wss:// on a separate address`},
		{[]string{"--addr=auto+unix:///tmp/a.sock", "--proxy-protocol=unix", "--tls-self-signed", "--tls-client-ca=" + cert}, "which would bypass --tls-client-ca"},
		{[]string{"--addr=ws://127.0.0.1:0/a?b"}, "the WebSocket path must begin with /"},
		{[]string{"--addr=tls://127.0.0.1:0/a", "--tls-self-signed"}, "a TLS address has no path"},
		{[]string{"--ws-origin=https://a/b"}, `--ws-origin "https://a/b"`},
		{[]string{"--tls-cert=" + cert, "--tls-key=" + locked}, "the key has a passphrase"},
		{[]string{"--addr=wsx://127.0.0.1:0"}, "tls://, ws://, wss:// or auto://"},
		{[]string{"--ws-origin=*.example.com"}, "give each host"},
		{[]string{"--ws-origin=null"}, `--ws-origin "null"`},
		{[]string{"--ws-origin=example.com:99999"}, "port must be"},
		{[]string{"--proxy-protocol=::ffff:0:0/90"}, `--proxy-protocol "::ffff:0:0/90"`},
		{[]string{"--proxy-protocol=10.0.0.0/99"}, `--proxy-protocol "10.0.0.0/99"`},
		{[]string{"--forwarded-for=here"}, `--forwarded-for "here"`},
		{[]string{"--addr=auto://127.0.0.1:0", "--byte-order=little"}, "use separate addresses"},
	} {
		_, stderr, code := millrace(t, nil, "", append([]string{"serve"}, c.args...)...)
		if code != 64 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d, %q, want %q", c.args, code, stderr, c.want)
		}
	}
}
