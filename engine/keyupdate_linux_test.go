package engine

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
)

// keyUpdater is a TLS 1.3 client that updates its keys, and reads any number of its peer's updates, which
// crypto/tls's does not.
type keyUpdater struct {
	net.Conn
	up, down trafficKey
	plain    []byte // read and not taken
}

// trafficKey is that of one direction.
type trafficKey struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func dialKeyUpdater(t *testing.T, srv *Server) *keyUpdater {
	t.Helper()
	raw, err := (&net.Dialer{Control: smallWindow}).Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(60 * time.Second))
	var keys strings.Builder
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, KeyLogWriter: &keys})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := c.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 { // crypto/tls chooses it where the processor has AES
		t.Skip("the cipher is ", tls.CipherSuiteName(suite))
	}
	u := &keyUpdater{Conn: raw}
	for line := range strings.Lines(keys.String()) {
		switch f := strings.Fields(line); f[0] {
		case "CLIENT_TRAFFIC_SECRET_0":
			u.up.use(must(hex.DecodeString(f[2])))
		case "SERVER_TRAFFIC_SECRET_0":
			u.down.use(must(hex.DecodeString(f[2])))
		}
	}
	return u
}

func (k *trafficKey) use(secret []byte) {
	*k = trafficKey{secret: secret}
	k.aead, k.iv = must(cipher.NewGCM(must(aes.NewCipher(k.expand("key", 16))))), k.expand("iv", 12)
}

// expand is HKDF-Expand-Label of RFC 8446, section 7.1.
func (k *trafficKey) expand(label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(append(info, byte(6+len(label))), "tls13 "+label...), 0)
	return must(hkdf.Expand(sha256.New, k.secret, string(info), n))
}

func (k *trafficKey) update() { k.use(k.expand("traffic upd", sha256.Size)) }

func (k *trafficKey) nonce() []byte {
	nonce := bytes.Clone(k.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^k.seq)
	k.seq++
	return nonce
}

// record is b as a record of that type.
func (c *keyUpdater) record(kind byte, b []byte) []byte {
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(b)+1+c.up.aead.Overhead()))
	return c.up.aead.Seal(head, c.up.nonce(), append(bytes.Clone(b), kind), head)
}

// update is a KeyUpdate that asks for the peer's, after which the next key is in use.
func (c *keyUpdater) update() []byte {
	b := c.record(22, []byte{24, 0, 0, 1, 1})
	c.up.update()
	return b
}

func (c *keyUpdater) Read(p []byte) (int, error) {
	for len(c.plain) == 0 {
		head := make([]byte, 5)
		if _, err := io.ReadFull(c.Conn, head); err != nil {
			return 0, err
		}
		body := make([]byte, binary.BigEndian.Uint16(head[3:]))
		if _, err := io.ReadFull(c.Conn, body); err != nil {
			return 0, err
		}
		b, err := c.down.aead.Open(nil, c.down.nonce(), body, head)
		if err != nil {
			return 0, err
		}
		b = bytes.TrimRight(b, "\x00")
		switch kind, b := b[len(b)-1], b[:len(b)-1]; {
		case kind == 23:
			c.plain = b
		case kind == 22 && b[0] == 24:
			c.down.update()
		case kind == 21:
			return 0, fmt.Errorf("alert %d", b)
		}
	}
	n := copy(p, c.plain)
	c.plain = c.plain[n:]
	return n, nil
}

// A client may update its keys, and ask the server to, while answers wait that it does not read. One that
// does so without end is not read any more until it reads. Nothing is lost, and reading goes on.
func TestKeysAreUpdatedWhileTheSocketIsFull(t *testing.T) {
	t.Parallel()
	const size, many = 300_000, 20_000
	for _, c := range []struct {
		name    string
		asked   bool // for an answer that is not read, in front of the updates
		updates int
	}{{"few behind an answer", true, 5}, {"many behind an answer", true, many}, {"many", false, many}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := make(chan *Session, 1)
			srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, MaxFrame: 1 << 20, Socket: Socket{SocketSendBuffer: 8 << 10, SocketRecvBuffer: 64 << 10},
				Limits: Limits{MaxOutbound: 4 << 20}, Doors: Doors{TLS: serverTLS()}},
				&funcs{accept: func(s *Session) { first <- s }, read: func(s *Session, p codec.Packet) {
					if p.Sub == 2 {
						p.Body = bytes.Repeat([]byte("answer"), size/6)
					}
					s.Reply(p, p.Body)
				}})
			u := dialKeyUpdater(t, srv)
			r := codec.NewReader(u, must(codec.New(codec.Layout{}, 1<<20)))
			expect := func(sub uint16, body []byte) {
				t.Helper()
				p, err := r.Next()
				if err != nil || p.Sub != sub || !bytes.Equal(p.Body, body) {
					t.Fatalf("got %d/%d of %d bytes, %v, want 1/%d of %d", p.Main, p.Sub, len(p.Body), err, sub, len(body))
				}
			}
			u.Write(u.record(23, frame(1, 1, "first")))
			expect(1, []byte("first"))
			s := <-first
			if c.asked {
				u.Write(u.record(23, frame(1, 2, "")))
				until(t, "the answer", func() bool { return blocked(srv) })
			}
			var sent []byte
			for range c.updates {
				sent = append(sent, u.update()...)
				sent = append(sent, u.record(23, frame(0, SubPong, ""))...)
			}
			sent = append(sent, u.record(23, frame(1, 1, "last"))...)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer u.Close()
			wg.Go(func() { io.Copy(u.Conn, bytes.NewReader(sent)) })
			if c.updates == many {
				unread := func() (n int) {
					done := make(chan int)
					s.loop.onLoop(func(*loop) { done <- s.conn.Unread() })
					return <-done
				}
				until(t, "a client that is not read", func() bool {
					in := s.bytesIn.Load()
					time.Sleep(500 * time.Millisecond) // a busy loop is not one that does not read
					return unread() > 0 && s.bytesIn.Load() == in
				})
				if n := s.bytesIn.Load(); n > many*8/2 {
					t.Errorf("%d PONGs were read, of %d", n/8, many)
				}
				if err := s.Push(1, 3, []byte("pushed")); err != nil {
					t.Fatal(err)
				}
				until(t, "the push", func() bool { return blocked(srv) })
			}
			if c.asked {
				expect(2, bytes.Repeat([]byte("answer"), size/6))
			}
			if c.updates == many {
				expect(3, []byte("pushed"))
			}
			expect(1, []byte("last"))
		})
	}
}

// blocked reports whether the kernel did not take a write whole.
func blocked(srv *Server) bool {
	for _, l := range srv.allLoops() {
		if l.st.blockedWrites.Load() > 0 {
			return true
		}
	}
	return false
}
