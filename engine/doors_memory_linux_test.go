package engine

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A client that writes and writes and reads nothing is pushed back on behind TLS and
// WebSocket as behind TCP: the process stays as small, and the client gets every byte in the
// end.
func TestBackPressureBehindDoors(t *testing.T) {
	total := 24 * mib
	if *long {
		total = 128 * mib
	}
	one := frame(1, 1, string(bytes.Repeat([]byte("0123456789abcdef"), 63)))
	grown := map[string]int{}
	for _, c := range []struct {
		scheme  string
		deflate bool
	}{{"tcp", false}, {"tls", false}, {"ws", false}, {"wss", false}, {"ws", true}} {
		if c.scheme == "wss" && !*long {
			continue // both together
		}
		name := fmt.Sprint(c.scheme, map[bool]string{true: ", compressed"}[c.deflate])
		t.Run(name, func(t *testing.T) {
			srv := spawn(t, childConfig{TLS: true, Config: Config{Dispatch: Inline, Addrs: []string{c.scheme + "://127.0.0.1:0"}, Doors: Doors{Deflate: c.deflate}}})
			nc := net.Conn(must(net.Dial("tcp", srv.addr)))
			defer nc.Close()
			if c.scheme == "tls" || c.scheme == "wss" {
				nc = tls.Client(nc, clientTLS)
			}
			nc.SetDeadline(time.Now().Add(2 * time.Minute))
			b, r := bytes.Repeat(one, 64), io.Reader(nc)
			if c.scheme == "ws" || c.scheme == "wss" {
				headers := ""
				if c.deflate {
					headers = offerDeflate + "\r\n"
				}
				w := upgradeConn(t, nc, headers)
				first := byte(0x82)
				if b = bytes.Clone(b); c.deflate {
					first, b = 0xc2, deflate(b)
				}
				b, r = wsFrame(first, b), &wsData{c: w}
			}
			nc.Write(b)
			expect(t, r, bytes.Repeat(one, 64))
			idle := srv.rss()
			var written atomic.Int64
			writes := total / len(one) / 64
			sent := make(chan error, 1)
			go func() {
				for range writes {
					if _, err := nc.Write(b); err != nil {
						sent <- err
						return
					}
					written.Add(1)
				}
				sent <- nil
			}()
			peak := 0
			stood, before := time.Duration(0), int64(-1)
			for end := time.Now().Add(20 * time.Second); stood < 300*time.Millisecond; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the client is never pushed back")
				}
				peak = max(peak, srv.rss())
				if n := written.Load(); n == before {
					stood += 20 * time.Millisecond
				} else {
					before, stood = n, 0
				}
			}
			if n := written.Load(); !c.deflate && n > int64(writes)*9/10 {
				t.Errorf("%d of %d writes were taken: not pushed back", n, writes)
			}
			if n := srv.stats().Memory; n > 4*mib {
				t.Errorf("%d bytes are counted", n)
			}
			want := bytes.Repeat(one, 64)
			for range writes {
				expect(t, r, want)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			peak = max(peak, srv.rss())
			grown[name] = peak - idle
			if grown[name] > 16*mib*slack {
				t.Errorf("the server grew by %d MiB", grown[name]/mib)
			}
		})
	}
	t.Logf("grown, in KiB: %v", inKiB(grown))
}

func inKiB(m map[string]int) map[string]int {
	for k := range m {
		m[k] >>= 10
	}
	return m
}

// wsData is the data of a WebSocket's messages, inflated where they are compressed.
type wsData struct {
	c      *rawWS
	rest   []byte
	packed []byte // the pieces of a compressed message
	some   bool   // one is under way
}

func (d *wsData) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		first, body, err := d.c.next()
		switch {
		case err != nil:
			return 0, err
		case first&0x0f >= 8:
			return 0, errors.New("a control frame")
		}
		if first&0x0f == 2 {
			d.some = first&0x40 != 0
		}
		if !d.some {
			d.rest = body
			continue
		}
		if d.packed = append(d.packed, body...); first&0x80 != 0 {
			d.rest, d.packed = inflate(d.c.t, d.packed), nil
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}
