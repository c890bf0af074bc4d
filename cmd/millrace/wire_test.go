package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// The tests write and read frames by hand, from the wire contract and not from package
// codec: what both sides get wrong alike would pass.

// peer is a client.
type peer struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

type packet struct {
	main, sub uint16
	body      string
}

func (f packet) String() string { return fmt.Sprintf("%d/%d %.200q", f.main, f.sub, f.body) }

// bytes is f on the wire.
func (f packet) bytes() []byte {
	b := make([]byte, 8, 8+len(f.body))
	binary.BigEndian.PutUint32(b, uint32(4+len(f.body)))
	binary.BigEndian.PutUint16(b[4:], f.main)
	binary.BigEndian.PutUint16(b[6:], f.sub)
	return append(b, f.body...)
}

func (p *peer) send(main, sub uint16, body string) {
	p.t.Helper()
	p.write(packet{main, sub, body}.bytes())
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// next reads one frame, or the error that ends the stream.
func (p *peer) next() (packet, error) {
	var head [8]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return packet{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 4 || n > 1<<24 {
		return packet{}, fmt.Errorf("a frame of length %d", n)
	}
	body := make([]byte, n-4)
	if _, err := io.ReadFull(p.r, body); err != nil {
		return packet{}, fmt.Errorf("inside a frame: %w", err)
	}
	return packet{binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:]), string(body)}, nil
}

// recv reads one frame.
func (p *peer) recv() packet {
	p.t.Helper()
	f, err := p.next()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return f
}

// want reads one frame, which must be this one.
func (p *peer) want(main, sub uint16, body string) {
	p.t.Helper()
	if f, want := p.recv(), (packet{main, sub, body}); f != want {
		p.t.Fatalf("got %v, want %v", f, want)
	}
}

// wantError reads one frame, which must be an ERROR with this code about this handle.
func (p *peer) wantError(code uint16, main, sub uint16) {
	p.t.Helper()
	f := p.recv()
	got, about, ok := parseErrorFrame(f)
	if want := uint32(main)<<16 | uint32(sub); !ok || got != code || about != want {
		p.t.Fatalf("got %v (code %d about %#x), want an ERROR %d about %d/%d", f, got, about, code, main, sub)
	}
}

func parseErrorFrame(f packet) (code uint16, about uint32, ok bool) {
	if f.main != 0 || f.sub != 3 || len(f.body) < 6 {
		return 0, 0, false
	}
	b := []byte(f.body)
	return binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]), true
}

// wantEnd reads the end of the stream, a FIN and no reset, and closes its own side.
func (p *peer) wantEnd() {
	p.t.Helper()
	f, err := p.next()
	if !errors.Is(err, io.EOF) {
		p.t.Fatalf("got %v, %v, want a clean end", f, err)
	}
	p.Close()
}

// object calls main/sub and returns its JSON answer.
func (p *peer) object(main, sub uint16, body string) map[string]any {
	p.t.Helper()
	p.send(main, sub, body)
	f := p.recv()
	if f.main != main || f.sub != sub {
		p.t.Fatalf("%d/%d %s: got %v", main, sub, body, f)
	}
	return p.parse(f)
}

func (p *peer) parse(f packet) map[string]any {
	p.t.Helper()
	m := map[string]any{}
	d := json.NewDecoder(strings.NewReader(f.body))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		p.t.Fatalf("%v: %v", f, err)
	}
	return m
}

// echo is a barrier: everything asked for before has been answered when it returns.
func (p *peer) echo(body string) {
	p.t.Helper()
	p.send(1, 1, body)
	p.want(1, 1, body)
}

// echoAmongPings is echo where the server sends PINGs in between.
func (p *peer) echoAmongPings(body string) {
	p.t.Helper()
	p.send(1, 1, body)
	if f := p.recvAmongPings(); f != (packet{1, 1, body}) {
		p.t.Fatalf("got %v, want the echo of %q", f, body)
	}
}

// recvAmongPings reads the next frame that is no PING.
func (p *peer) recvAmongPings() packet {
	p.t.Helper()
	f := p.recv()
	for f.main == 0 && f.sub == 1 {
		f = p.recv()
	}
	return f
}

// finish says that no more requests come.
func (p *peer) finish() {
	p.t.Helper()
	if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		p.t.Fatal(err)
	}
}

func newReader(c net.Conn) *bufio.Reader { return bufio.NewReader(c) }
