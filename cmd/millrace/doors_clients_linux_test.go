package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/proctest"
)

const nodeDoors = `
const fs = require("fs"), tls = require("tls"), WebSocket = require("ws")
const [tlsPort, wsPort, file] = process.argv.slice(1)
const ca = fs.readFileSync(file)
function frame(main, sub, body) {
  const b = Buffer.alloc(8 + body.length)
  b.writeUInt32BE(4 + body.length); b.writeUInt16BE(main, 4); b.writeUInt16BE(sub, 6); body.copy(b, 8)
  return b
}
const big = frame(1, 1, Buffer.alloc(60000, "node "))
function fail(what) { console.log(what); process.exit(1) }
function overTLS(version, done) {
  let got = Buffer.alloc(0)
  const s = tls.connect({ port: tlsPort, host: "127.0.0.1", servername: "localhost", ca, minVersion: version, maxVersion: version }, () => {
    if (!s.authorized || s.getProtocol() !== version) fail(version + ": " + s.getProtocol())
    s.write(big)
    s.end(frame(1, 1, Buffer.from("last"))) // a close_notify, and a FIN
  })
  s.on("data", d => { got = Buffer.concat([got, d]) })
  s.on("error", e => fail(version + ": " + e))
  s.on("end", () => {
    if (!got.equals(Buffer.concat([big, frame(1, 1, Buffer.from("last"))]))) fail(version + ": " + got.length + " bytes")
    done()
  })
}
function overWS(deflate, done) {
  let got = Buffer.alloc(0), pong = false
  const ws = new WebSocket("wss://localhost:" + wsPort + "/chat", "millrace", { ca, perMessageDeflate: deflate })
  ws.on("open", () => {
    if (ws.protocol !== "millrace" || ws.extensions !== (deflate ? "permessage-deflate" : "")) fail("agreed on " + ws.protocol + " " + ws.extensions)
    ws.ping("there?")
    ws.send(big.subarray(0, 100), { fin: false }); ws.send(big.subarray(100), { fin: true })
  })
  ws.on("pong", d => { pong = String(d) === "there?" })
  ws.on("message", d => {
    got = Buffer.concat([got, d])
    if (got.length === big.length) ws.close(4321, "done")
  })
  ws.on("error", e => fail("ws: " + e))
  ws.on("close", code => {
    if (code !== 4321 || !pong || !got.equals(big)) fail("closed with " + code + " behind " + got.length + " bytes")
    done()
  })
}
overTLS("TLSv1.2", () => overTLS("TLSv1.3", () => overWS(false, () => overWS(true, () => console.log("ok")))))
`

// Node's tls and ws come through the doors.
func TestNodeComesThroughTheDoors(t *testing.T) {
	t.Parallel()
	node := tool(t, "node")
	cert, key := certificate(t, "localhost")
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--addr", "wss://127.0.0.1:0/chat", "--tls-cert", cert, "--tls-key", key, "--ws-compress")
	var ports []string
	for _, url := range s.ready {
		_, port, _ := strings.Cut(hostOf(url), ":")
		ports = append(ports, port)
	}
	cmd := exec.Command(node, "-e", nodeDoors, ports[0], ports[1], cert)
	cmd.Env = append(cmd.Environ(), "NODE_PATH=/usr/share/nodejs:/usr/lib/node_modules", "NODE_OPTIONS=--dns-result-order=ipv4first")
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "Cannot find module") {
		proctest.Missing(t, "no ws for node here")
	}
	if err != nil || string(out) != "ok\n" {
		t.Errorf("%v:\n%s", err, out)
	}
}

// --tls-min 1.3 refuses what is older.
func TestTheLeastVersionOfTLS(t *testing.T) {
	t.Parallel()
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--framing", "line", "--tls-self-signed", "--tls-min", "1.3")
	old := sClient(t, hostOf(s.ready[0]), "-tls1_2", "-ign_eof")
	old.await(t, "alert protocol version")
	good := sClient(t, hostOf(s.ready[0]), "-quiet", "-no_ign_eof")
	io.WriteString(good.in, "a line\n")
	good.await(t, "a line\n")
}

// openssl is one s_client under way.
type openssl struct {
	in  io.WriteCloser
	mu  sync.Mutex
	out bytes.Buffer // guarded by mu
	cmd *exec.Cmd
}

func (o *openssl) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.Write(b)
}

func (o *openssl) said(s string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Contains(o.out.String(), s)
}

// await polls for what s_client must say.
func (o *openssl) await(t *testing.T, s string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !o.said(s); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			o.mu.Lock()
			defer o.mu.Unlock()
			t.Fatalf("no %q of openssl's:\n%s", s, o.out.String())
		}
	}
}

func sClient(t *testing.T, addr string, args ...string) *openssl {
	t.Helper()
	o := &openssl{cmd: exec.Command(tool(t, "openssl"), append([]string{"s_client", "-connect", addr}, args...)...)}
	o.cmd.Stdout, o.cmd.Stderr = o, o
	var err error
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.cmd.Process.Kill(); _ = o.cmd.Wait() })
	return o
}

// With --tls-client-ca a client without a certificate, or with another authority's, is
// turned away, and no session is seen.
func TestMutualTLSWithOpenSSL(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "localhost")
	other, otherKey := certificate(t, "localhost")
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--framing", "line", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert, "--log-level", "debug")
	for _, v := range []string{"-tls1_2", "-tls1_3"} {
		good := sClient(t, hostOf(s.ready[0]), v, "-quiet", "-no_ign_eof", "-CAfile", cert, "-cert", cert, "-key", key)
		io.WriteString(good.in, "a line of the good one\n")
		good.await(t, "a line of the good one\n")
		for name, args := range map[string][]string{"none": nil, "another's": {"-cert", other, "-key", otherKey}} {
			bad := sClient(t, hostOf(s.ready[0]), append([]string{v, "-quiet", "-ign_eof"}, args...)...)
			io.WriteString(bad.in, "a line that nobody reads\n")
			bad.await(t, "alert")
			if bad.said("a line that nobody reads") {
				t.Errorf("%s, %s: the line came back", v, name)
			}
		}
	}
	s.stop()
	if n := strings.Count(s.log(), "TLS handshake failed"); n != 4 {
		t.Errorf("%d failed handshakes in the log, want 4", n)
	}
}

// A client may change its keys, and ask for the server's to change, in mid-stream.
func TestKeysChangeWithOpenSSL(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "localhost")
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--framing", "line", "--tls-cert", cert, "--tls-key", key)
	o := sClient(t, hostOf(s.ready[0]), "-tls1_3", "-CAfile", cert)
	want := ""
	for _, command := range []string{"K", "k", "K", "K"} { // with and without asking for the server's
		want += "a line in front of " + command + "\nKEYUPDATE\n"
		io.WriteString(o.in, "a line in front of "+command+"\n")
		o.await(t, strings.TrimSuffix(want, "KEYUPDATE\n"))
		io.WriteString(o.in, command+"\n")
		o.await(t, want)
	}
	io.WriteString(o.in, "last line\n")
	o.await(t, want+"last line\n")
}

// The end of a TLS stream is told apart from a cut: close_notify is a FIN, and a FIN without
// one is noted, and what was asked for in front of either is answered.
func TestEndsOfTLSWithOpenSSL(t *testing.T) {
	cert, key := certificate(t, "localhost")
	s := serve(t, "--addr", "tls://127.0.0.1:0", "--framing", "line", "--tls-cert", cert, "--tls-key", key)
	for _, v := range []string{"-tls1_2", "-tls1_3"} {
		o := sClient(t, hostOf(s.ready[0]), v, "-quiet", "-no_ign_eof", "-CAfile", cert)
		io.WriteString(o.in, strings.Repeat("owed\n", 1000)+"last of them\n")
		o.await(t, "last of them\n")
		io.WriteString(o.in, "Q\n") // a close_notify and the end
		if err := o.cmd.Wait(); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		if strings.Contains(s.log(), "truncated") {
			t.Errorf("%s: the log says truncated behind a close_notify", v)
		}
	}
	cut, err := net.Dial("tcp", hostOf(s.ready[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	cut.SetDeadline(time.Now().Add(30 * time.Second))
	c := tls.Client(cut, &tls.Config{InsecureSkipVerify: true})
	io.WriteString(c, "owed\n")
	cut.(*net.TCPConn).CloseWrite() // without a close_notify
	if b, err := io.ReadAll(c); err != nil || string(b) != "owed\n" {
		t.Errorf("in front of a bare FIN: %q, %v", b, err)
	}
	if !s.says("truncated") {
		t.Fatal("the log does not say truncated")
	}
	raw, err := net.Dial("tcp", hostOf(s.ready[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(raw, "this is a line\n") // no TLS at all
	if b, err := io.ReadAll(raw); errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(string(b), "line") {
		t.Errorf("no TLS: got %q, %v, want the end", b, err)
	}
}
