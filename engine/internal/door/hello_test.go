package door

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"slices"
	"testing"
)

// helloOf is what a client with that config begins with.
func helloOf(cfg *tls.Config) []byte {
	c := &firstWrite{}
	cfg.InsecureSkipVerify = true
	_ = tls.Client(c, cfg).Handshake() // it gets no answer
	return c.b
}

type firstWrite struct {
	net.Conn
	b []byte
}

func (c *firstWrite) Write(b []byte) (int, error) {
	c.b = append(c.b, b...)
	return len(b), net.ErrClosed
}
func (*firstWrite) Close() error { return nil }

// inRecords cuts the message of a hello into records of n bytes.
func inRecords(hello []byte, n int) (b []byte) {
	for piece := range slices.Chunk(hello[recordHead:], n) {
		b = append(binary.BigEndian.AppendUint16(append(b, hello[:3]...), uint16(len(piece))), piece...)
	}
	return b
}

// A ClientHello is whole with its last byte, in however many records it comes, and what is none needs not be waited for.
func TestHellosAreWhole(t *testing.T) {
	hello := helloOf(&tls.Config{})
	for _, n := range []int{len(hello), len(hello)/2 + 1, len(hello)/9 + 1} {
		b := inRecords(hello, n)
		for i := range b {
			if helloWhole(b[:i]) {
				t.Fatalf("records of %d bytes: whole with %d of %d", n, i, len(b))
			}
		}
		if !helloWhole(b) || !helloWhole(append(b, "more"...)) {
			t.Errorf("records of %d bytes: not whole at the end", n)
		}
	}
	for name, b := range map[string][]byte{
		"HTTP": []byte("GET"), "version": []byte("\x16\x1f\x01\x00\x05"), "record too long": []byte("\x16\x03\x01\xff\xff"), "empty record": []byte("\x16\x03\x01\x00\x00"),
		"other message": []byte("\x16\x03\x01\x00\x10\x02\x00\x00\x0c"), "hello too long": []byte("\x16\x03\x01\x00\x10\x01\xff\xff\xff"),
		"alert behind a piece": append(inRecords(hello, 99)[:104], "\x15\x03\x01\x00\x02\x02\x28"...), "records of a byte": inRecords(hello, 1)[:6*mostRecords],
	} {
		if !helloWhole(b) {
			t.Errorf("%s: %x is waited for", name, b)
		}
	}
}

// The group that is asked for is one that the client knows, the server allows and no key share is there for; and crypto/tls
// agrees.
func TestGroupsToAskFor(t *testing.T) {
	p256, x25519, p384 := tls.CurveP256, tls.X25519, tls.CurveP384
	for name, c := range map[string]struct {
		client *tls.Config
		server []tls.CurveID
		want   tls.CurveID
	}{
		"the defaults":       {&tls.Config{}, nil, p256},
		"one group":          {&tls.Config{CurvePreferences: []tls.CurveID{x25519}}, nil, 0},
		"a share for P-256":  {&tls.Config{CurvePreferences: []tls.CurveID{p256, x25519}}, nil, 0}, // Go's client prefers X25519
		"not allowed":        {&tls.Config{CurvePreferences: []tls.CurveID{x25519, p256}}, []tls.CurveID{x25519}, 0},
		"a dear group":       {&tls.Config{CurvePreferences: []tls.CurveID{p256, p384}}, nil, 0},
		"1.2":                {&tls.Config{MaxVersion: tls.VersionTLS12}, nil, 0},
		"P-384 is preferred": {&tls.Config{CurvePreferences: []tls.CurveID{p384, p256}}, nil, 0},
	} {
		hello := helloOf(c.client)
		got := otherGroup(hello, retryable(&tls.Config{CurvePreferences: c.server}))
		switch name {
		case "a share for P-256", "P-384 is preferred": // which share Go's client sends is its affair
			if got != 0 && got != p256 {
				t.Errorf("%s: asks for %v", name, got)
			}
		default:
			if got != c.want {
				t.Errorf("%s: asks for %v, want %v", name, got, c.want)
			}
		}
		if other := otherGroup(inRecords(hello, 50), retryable(&tls.Config{})); len(hello) > 200 && other != 0 && other != p256 && other != x25519 {
			t.Errorf("%s: in many records %v", name, other)
		}
	}
	if g := retryable(&tls.Config{MaxVersion: tls.VersionTLS12}); g != nil {
		t.Errorf("a server of TLS 1.2 may ask for %v", g)
	}
}

// Whatever comes, it is looked at within its bounds, and what crypto/tls would ask about, as it may not, is not asked.
func FuzzHello(f *testing.F) {
	for _, cfg := range []*tls.Config{{}, {MaxVersion: tls.VersionTLS12}, {CurvePreferences: []tls.CurveID{tls.X25519}}, {ServerName: "localhost", NextProtos: []string{"a"}}} {
		hello := helloOf(cfg)
		f.Add(hello)
		f.Add(inRecords(hello, 40))
	}
	allowed := []tls.CurveID{tls.CurveP256, tls.X25519}
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		whole := helloWhole(b)
		for i := range min(len(b), 64) {
			if helloWhole(b[:i]) && !whole {
				t.Fatalf("whole with %d bytes, and not with %d", i, len(b))
			}
		}
		if g := otherGroup(b, allowed); g != 0 && !slices.Contains(allowed, g) {
			t.Fatalf("asks for %v", g)
		}
		if !bytes.Equal(b, kept) {
			t.Fatal("the bytes were changed")
		}
	})
}

// Of a hello in several records nothing is told but that it is whole: what stands between would be taken for parts of it.
func TestAHelloInSeveralRecordsIsNotAsked(t *testing.T) {
	hello, allowed := helloOf(&tls.Config{}), retryable(&tls.Config{})
	if otherGroup(hello, allowed) == 0 {
		t.Fatal("a hello that could be asked is needed")
	}
	for _, n := range []int{1, 40, len(hello) / 2, len(hello) - recordHead - 1} {
		if g := otherGroup(inRecords(hello, n), allowed); g != 0 {
			t.Errorf("in records of %d bytes: asked for %v", n, g)
		}
	}
	for _, n := range []int{0, 1, recordHead, recordHead + messageHead, len(hello) - 1} {
		if g := otherGroup(hello[:n], allowed); g != 0 {
			t.Errorf("%d bytes of it: asked for %v", n, g)
		}
	}
}
