package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"millrace/codec"
	"millrace/internal/proctest"
)

// autobahnClient is Node's ws as the other side. What a client of its kind would not send it
// writes to the socket; what comes back is its parser's word.
const autobahnClient = `
const WebSocket = require("ws"), crypto = require("crypto")
let input = ""
process.stdin.on("data", d => input += d).on("end", async () => {
  const { url, cases } = JSON.parse(input)
  for (const c of cases) console.log(JSON.stringify(await run(url, c)))
})
function run(url, c) {
  return new Promise(resolve => {
    const ws = new WebSocket(url, { perMessageDeflate: c.Deflate || false })
    const out = { Name: c.Name, Got: 0, Pongs: [], Packed: false }
    const hash = crypto.createHash("sha256")
    const began = Date.now()
    const timer = setTimeout(() => { out.Err = "not in 30 s"; ws.terminate() }, 30000)
    const check = () => { if (c.Code === 0 && out.Got === c.Want && out.Pongs.length === c.Pongs.length && sent) ws.close(1000) }
    let sent = false
    ws.on("upgrade", res => { out.Extensions = res.headers["sec-websocket-extensions"] || "" })
    ws.on("open", async () => {
      if (c.Raw) for (const piece of c.Raw) {
        ws._socket.write(Buffer.from(piece, "base64"))
        if (c.Raw.length > 1) await new Promise(setImmediate)
      }
      if (c.Send) for (let i = 0; i < c.Times; i++) {
        const b = Buffer.from(c.Send, "base64"), step = c.Fragment || b.length
        for (let at = 0; at < b.length; at += step) ws.send(b.subarray(at, at + step), { fin: at + step >= b.length, binary: true, compress: true })
      }
      sent = true
      check()
    })
    ws.on("message", d => { out.Got += d.length; hash.update(d); check() })
    ws.on("pong", d => { out.Pongs.push(d.toString("hex")); check() })
    ws.on("error", e => { out.Err = String(e) })
    ws.on("close", code => {
      clearTimeout(timer)
      out.Code = code
      out.Ms = Date.now() - began
      out.Hash = hash.digest("hex")
      resolve(out)
    })
  })
}
`

// autobahnCase is one case: either Raw is written to the socket, or Send is sent Times times.
type autobahnCase struct {
	Name     string
	Raw      [][]byte       `json:",omitempty"`
	Send     []byte         `json:",omitempty"`
	Times    int            `json:",omitempty"`
	Fragment int            `json:",omitempty"`
	Deflate  map[string]any `json:",omitempty"`
	Want     int            // bytes of data that come back
	Pongs    []string       // the bodies, in hexadecimal
	Code     int            // of the server's close frame; 0: the client closes with 1000

	want       []byte
	extensions string // what the server must have agreed on; "": nothing is checked
}

// The cases of the Autobahn test suite by its numbers, with the bytes of binary messages as
// the stream of frames. Not here, as there are no text messages: 1.1 and 6 but for 6's first,
// which gets 1003 as all text does; 9 up to 1 MiB, or 4 MiB with -long.
func autobahnCases() (list []autobahnCase) {
	raw := func(name string, code int, want []byte, pongs []string, frames ...[]byte) {
		stream := bytes.Join(frames, nil)
		list = append(list, autobahnCase{Name: name, Raw: [][]byte{stream}, want: want, Pongs: pongs, Code: code})
	}
	message := func(n int) []byte { return frame(1, 1, strings.Repeat("*", n-8)) }
	bin := func(b []byte) []byte { return wsFrame(0x82, b) }
	closing := func(code uint16, reason string) []byte {
		return wsFrame(0x88, append(binary.BigEndian.AppendUint16(nil, code), reason...))
	}
	ping := func(body string) []byte { return wsFrame(0x89, []byte(body)) }
	hexed := func(s string) string { return hex.EncodeToString([]byte(s)) }
	hello := message(13)

	raw("1.1.1 text", 1003, nil, nil, wsFrame(0x81, nil))
	raw("1.2.1 binary, empty", 0, nil, nil, bin(nil))
	for i, n := range []int{125, 126, 127, 128, 65535, 65536} {
		raw(fmt.Sprintf("1.2.%d binary of %d", i+2, n), 0, message(n), nil, bin(message(n)))
	}
	stream := bin(message(65536))
	var chopped [][]byte
	for from := 0; from < len(stream); from += 997 {
		chopped = append(chopped, stream[from:min(from+997, len(stream))])
	}
	list = append(list, autobahnCase{Name: "1.2.8 binary of 65536 in chops of 997", Raw: chopped, want: message(65536)})

	raw("2.1 ping", 0, nil, []string{""}, ping(""))
	raw("2.2 ping with text", 0, nil, []string{hexed("Hello")}, ping("Hello"))
	raw("2.3 ping with bytes", 0, nil, []string{"00fffefdfcfb00ff"}, ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff"))
	raw("2.4 ping of 125", 0, nil, []string{strings.Repeat("fe", 125)}, ping(strings.Repeat("\xfe", 125)))
	raw("2.5 ping of 126", 1002, nil, nil, ping(strings.Repeat("\xfe", 126)))
	list = append(list, autobahnCase{Name: "2.6 ping of 125 byte by byte", Raw: bytes.SplitAfter(ping(strings.Repeat("\xfe", 125)), nil), Pongs: []string{strings.Repeat("fe", 125)}})
	raw("2.7 pong unasked", 0, nil, nil, wsFrame(0x8a, nil))
	raw("2.8 pong unasked with text", 0, nil, nil, wsFrame(0x8a, []byte("unsolicited pong payload")))
	raw("2.9 pong, ping", 0, nil, []string{hexed("ping")}, wsFrame(0x8a, []byte("pong")), ping("ping"))
	var ten []string
	for i := range 10 {
		ten = append(ten, hexed(fmt.Sprint("payload-", i)))
	}
	pings := func() (b []byte) {
		for i := range 10 {
			b = append(b, ping(fmt.Sprint("payload-", i))...)
		}
		return b
	}()
	raw("2.10 ten pings", 0, nil, ten, pings)
	list = append(list, autobahnCase{Name: "2.11 ten pings byte by byte", Raw: bytes.SplitAfter(pings, nil), Pongs: ten})

	for i, first := range []byte{0xc2, 0xa2, 0xb2, 0xd2, 0xe2, 0xf2} {
		raw(fmt.Sprintf("3.%d reserved bits %#x", i+1, first), 1002, hello, nil, bin(hello), wsFrame(first, hello), ping(""))
	}
	raw("3.7 all reserved bits on a close", 1002, nil, nil, wsFrame(0xf8, nil))
	for i, op := range []byte{3, 4, 5, 6, 7} {
		raw(fmt.Sprintf("4.1.%d opcode %d", i+1, op), 1002, hello, nil, bin(hello), wsFrame(0x80|op, hello), ping(""))
	}
	for i, op := range []byte{11, 12, 13, 14, 15} {
		raw(fmt.Sprintf("4.2.%d opcode %d", i+1, op), 1002, hello, nil, bin(hello), wsFrame(0x80|op, nil), ping(""))
	}

	a, b := hello[:5], hello[5:]
	raw("5.1 fragmented ping", 1002, nil, nil, wsFrame(0x09, a), wsFrame(0x80, b))
	raw("5.2 fragmented pong", 1002, nil, nil, wsFrame(0x0a, a), wsFrame(0x80, b))
	raw("5.3 two fragments", 0, hello, nil, wsFrame(0x02, a), wsFrame(0x80, b))
	list = append(list, autobahnCase{Name: "5.4 two fragments, frame by frame", Raw: [][]byte{wsFrame(0x02, a), wsFrame(0x80, b)}, want: hello})
	list = append(list, autobahnCase{Name: "5.5 two fragments, byte by byte", Raw: bytes.SplitAfter(append(wsFrame(0x02, a), wsFrame(0x80, b)...), nil), want: hello})
	raw("5.6 ping between fragments", 0, hello, []string{hexed("p")}, wsFrame(0x02, a), ping("p"), wsFrame(0x80, b))
	list = append(list, autobahnCase{Name: "5.7 the same, frame by frame", Raw: [][]byte{wsFrame(0x02, a), ping("p"), wsFrame(0x80, b)}, want: hello, Pongs: []string{hexed("p")}})
	list = append(list, autobahnCase{Name: "5.8 the same, byte by byte", Raw: bytes.SplitAfter(bytes.Join([][]byte{wsFrame(0x02, a), ping("p"), wsFrame(0x80, b)}, nil), nil), want: hello, Pongs: []string{hexed("p")}})
	for i, first := range []byte{0x80, 0x80, 0x80, 0x00, 0x00, 0x00} {
		raw(fmt.Sprintf("5.%d continuation of nothing", i+9), 1002, nil, nil, wsFrame(first, a), bin(hello))
	}
	raw("5.15 continuation behind a message", 1002, hello, nil, wsFrame(0x02, a), wsFrame(0x80, b), wsFrame(0x00, a), bin(hello))
	for i, first := range []byte{0x00, 0x80} {
		raw(fmt.Sprintf("5.%d continuation first, twice", i+16), 1002, nil, nil, wsFrame(first, a), bin(b), wsFrame(first, a), bin(b))
	}
	raw("5.18 a message inside another", 1002, nil, nil, wsFrame(0x02, a), bin(b))
	raw("5.19 five fragments with pings between", 0, hello, []string{hexed("p1"), hexed("p2")}, wsFrame(0x02, hello[:2]), wsFrame(0x00, hello[2:4]), ping("p1"),
		wsFrame(0x00, hello[4:6]), wsFrame(0x00, hello[6:8]), ping("p2"), wsFrame(0x80, hello[8:]))
	raw("6.1.1 text of fragments", 1003, nil, nil, wsFrame(0x01, a), wsFrame(0x80, b))

	raw("7.1.1 message and close", 1000, hello, nil, bin(hello), closing(1000, ""))
	raw("7.1.2 two closes", 1000, nil, nil, closing(1000, ""), closing(1000, ""))
	raw("7.1.3 ping behind the close", 1000, nil, nil, closing(1000, ""), ping("late"))
	raw("7.1.4 message behind the close", 1000, nil, nil, closing(1000, ""), bin(hello))
	raw("7.1.5 close inside a message", 1000, nil, nil, wsFrame(0x02, a), closing(1000, ""), wsFrame(0x80, b))
	raw("7.1.6 a large message, close, ping", 1000, message(65000), nil, bin(message(65000)), closing(1000, ""), ping(""))
	raw("7.3.1 close without a body", 1005, nil, nil, wsFrame(0x88, nil))
	raw("7.3.2 close of one byte", 1002, nil, nil, wsFrame(0x88, []byte("a")))
	raw("7.3.3 close with a code", 1000, nil, nil, closing(1000, ""))
	raw("7.3.4 close with a reason", 1000, nil, nil, closing(1000, "Hello World!"))
	raw("7.3.5 close of 125", 1000, nil, nil, closing(1000, strings.Repeat("*", 123)))
	raw("7.3.6 close of 126", 1002, nil, nil, closing(1000, strings.Repeat("*", 124)))
	raw("7.5.1 bad UTF-8 in the reason", 1007, nil, nil, closing(1000, "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"))
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		raw(fmt.Sprintf("7.7.%d close with %d", i+1, code), int(code), nil, nil, closing(code, ""))
	}
	for i, code := range []uint16{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		raw(fmt.Sprintf("7.9.%d close with %d", i+1, code), 1002, nil, nil, closing(code, ""))
	}
	for i, code := range []uint16{5000, 65535} {
		raw(fmt.Sprintf("7.13.%d close with %d", i+1, code), 1002, nil, nil, closing(code, ""))
	}

	send := func(name string, size, fragment, times int, deflate map[string]any, extensions string) {
		one := frame(1, 1, strings.Repeat(`{"id": 17, "text": "the quick brown fox"}, `, size/40+1)[:size-8])
		list = append(list, autobahnCase{Name: name, Send: one, Times: times, Fragment: fragment, Deflate: deflate, want: bytes.Repeat(one, times), extensions: extensions})
	}
	largest, times := 1<<20, 2
	if *long {
		largest, times = 4<<20, 1000
	}
	for i, n := range []int{64 << 10, 256 << 10, 1 << 20, largest} {
		send(fmt.Sprintf("9.2.%d binary of %d KiB", i+1, n>>10), n, 0, 1, nil, "")
	}
	for i, n := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20} {
		send(fmt.Sprintf("9.4.%d binary in fragments of %d", i+1, n), largest>>(2*max(0, 3-i)), n, 1, nil, "")
	}
	for i, n := range []int{16, 64, 256, 1024} {
		send(fmt.Sprintf("9.8.%d many of %d", i+1, n), n, 0, 500, nil, "")
	}
	send("10.1.1 65536 in fragments of 1300", 65536, 1300, 1, nil, "")

	// zlib of some versions has no window of 8 bits: 9 is the least that is asked for.
	const agreed = "server_no_context_takeover; client_no_context_takeover"
	offers := []struct {
		offer map[string]any
		want  string
	}{
		{map[string]any{}, agreed},
		{map[string]any{"serverNoContextTakeover": true}, agreed},
		{map[string]any{"serverMaxWindowBits": 9}, agreed + "; server_max_window_bits=9"},
		{map[string]any{"serverMaxWindowBits": 15}, agreed + "; server_max_window_bits=15"},
		{map[string]any{"serverNoContextTakeover": true, "serverMaxWindowBits": 9}, agreed + "; server_max_window_bits=9"},
		{map[string]any{"serverNoContextTakeover": true, "serverMaxWindowBits": 15, "clientMaxWindowBits": 9}, agreed + "; server_max_window_bits=15"},
		{map[string]any{"clientNoContextTakeover": true, "clientMaxWindowBits": 10}, agreed},
	}
	offers[0].offer["threshold"] = 0
	for i, n := range []int{16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072} {
		send(fmt.Sprintf("12.2.%d compressed, of %d", i+1, n), n, 0, times, offers[0].offer, offers[0].want)
	}
	for i, x := range []struct{ n, fragment int }{{8192, 256}, {16384, 256}, {32768, 256}, {65536, 256}, {131072, 256}, {8192, 1024}, {16384, 2048}, {131072, 32768}} {
		send(fmt.Sprintf("12.2.%d compressed, of %d in fragments of %d", i+11, x.n, x.fragment), x.n, x.fragment, times, offers[0].offer, offers[0].want)
	}
	for k, o := range offers {
		o.offer["threshold"] = 0
		for i, n := range []int{16, 256, 4096, 131072} {
			send(fmt.Sprintf("13.%d.%d offer %v, of %d", k+1, i+1, o.offer, n), n, 0, times, o.offer, o.want)
		}
	}
	return list
}

// The Autobahn cases with a client that nobody here wrote.
func TestAutobahnWithNodesClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		proctest.Missing(t, "no node here")
	}
	srv := serve(t, Config{Dispatch: Inline, Addrs: []string{"ws://127.0.0.1:0"}, MaxFrame: 8 << 20, Limits: Limits{MaxOutbound: 16 << 20, MaxPending: 16 << 20}, Doors: Doors{Deflate: true}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.Reply(p, p.Body)
	}})
	cases := autobahnCases()
	for i := range cases {
		cases[i].Want = len(cases[i].want)
		if cases[i].Pongs == nil {
			cases[i].Pongs = []string{}
		}
	}
	in, err := json.Marshal(map[string]any{"url": "ws://" + srv.Addrs()[0].String() + "/", "cases": cases})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 3*time.Minute), node, "-e", autobahnClient)
	cmd.Env = append(cmd.Environ(), "NODE_PATH=/usr/share/nodejs:/usr/lib/node_modules")
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok && strings.Contains(string(exit.Stderr), "Cannot find module") {
			proctest.Missing(t, "no ws for node here")
		}
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(cases) {
		t.Fatalf("%d cases were run, want %d", len(lines), len(cases))
	}
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			var got struct {
				Name, Extensions, Hash, Err string
				Got, Code, Ms               int
				Pongs                       []string
			}
			if err := json.Unmarshal([]byte(lines[i]), &got); err != nil || got.Name != c.Name {
				t.Fatalf("%s: %v", lines[i], err)
			}
			t.Logf("%d ms", got.Ms)
			code := c.Code
			if code == 0 {
				code = 1000
			}
			hash := sha256.Sum256(c.want)
			if got.Err != "" || got.Code != code || got.Got != c.Want || got.Hash != hex.EncodeToString(hash[:]) || fmt.Sprint(got.Pongs) != fmt.Sprint(c.Pongs) {
				t.Errorf("got %+v, want %d bytes, pongs %v and code %d", got, c.Want, c.Pongs, code)
			}
			if want := "permessage-deflate; " + c.extensions; c.Deflate != nil && got.Extensions != want {
				t.Errorf("extensions %q, want %q", got.Extensions, want)
			}
		})
	}
	if st := srv.Stats().Doors; st.Inflated == 0 || st.Deflated == 0 {
		t.Errorf("nothing was compressed: %+v", st)
	}
}
