package door

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"testing"
	"time"
)

func TestRecordsAreCountedAtEverySplit(t *testing.T) {
	var stream []byte
	for _, n := range []int{3, 0, 300, 1, 0} {
		stream = append(append(stream, 23, 3, 3, byte(n>>8), byte(n)), make([]byte, n)...)
	}
	for at := range stream {
		var r records
		r.add(stream[:at])
		first := r.n
		r.add(stream[at:])
		if r.n != 5 || first > 5 || r.got != 0 {
			t.Fatalf("split at %d: got %d records, then %d, want 5 in all", at, first, r.n)
		}
	}
}

// memory is one end of a connection in memory. A Read that has nothing says so.
type memory struct {
	net.Conn
	in, out *bytes.Buffer
	wait    bool // a Read waits for the other end; only while the handshake runs
}

func (m *memory) Read(p []byte) (int, error) {
	if m.wait && m.in.Len() == 0 {
		return m.Conn.Read(p)
	}
	if m.in.Len() == 0 {
		return 0, errWait{}
	}
	return m.in.Read(p)
}

func (m *memory) Write(p []byte) (int, error) {
	if m.wait {
		return m.Conn.Write(p)
	}
	return m.out.Write(p)
}

// counting counts what a server is sent.
type counting struct {
	net.Conn
	r *records
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.r.add(p[:n])
	return n, err
}

// TestNothingIsLeftBehindTheLastRead sends streams of records to crypto/tls in pieces of any size and stops reading where
// records says so. What was sent must be there, each time that all of it has come.
func TestNothingIsLeftBehindTheLastRead(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		var whole records
		client, server := handshaken(t, version, &whole)
		buf := make([]byte, maxPlain)
		rnd := mathrand.New(mathrand.NewPCG(uint64(version), 1))
		for round := range 300 {
			sent := make([]byte, rnd.IntN(3*maxRecord>>rnd.IntN(10)))
			for i := range sent {
				sent[i] = byte(rnd.Uint32())
			}
			for i := 0; i < len(sent); {
				n := 1 + rnd.IntN(len(sent)-i)
				if _, err := client.tc.Write(sent[i : i+n]); err != nil {
					t.Fatal(err)
				}
				i += n
			}
			wire := bytes.Clone(client.m.out.Bytes())
			client.m.out.Reset()
			var got []byte
			for len(wire) > 0 {
				n := 1 + rnd.IntN(len(wire))
				whole.add(wire[:n])
				server.m.in.Write(wire[:n])
				wire = wire[n:]
				for {
					m, err := server.tc.Read(buf[:maxRecord])
					got = append(got, buf[:m]...)
					if err == error(errWait{}) {
						whole.n = 0
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if whole.took() {
						if n := server.m.in.Len(); n > 0 {
							t.Fatalf("round %d: %d bytes of the next record were left", round, n)
						}
						break
					}
				}
			}
			if !bytes.Equal(got, sent) {
				t.Fatalf("round %d: %d of %d bytes were read", round, len(got), len(sent))
			}
		}
	}
}

type end struct {
	tc *tls.Conn
	m  *memory
}

// handshaken is both ends of a TLS connection whose handshake is done; what the server is sent counts in r.
func handshaken(t *testing.T, version uint16, r *records) (client, server end) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	client.m = &memory{Conn: a, in: new(bytes.Buffer), out: new(bytes.Buffer), wait: true}
	server.m = &memory{Conn: counting{b, r}, in: new(bytes.Buffer), out: new(bytes.Buffer), wait: true}
	client.tc = tls.Client(client.m, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
	server.tc = tls.Server(server.m, &tls.Config{MinVersion: version, MaxVersion: version,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	done := make(chan error, 1)
	go func() { done <- server.tc.Handshake() }()
	if err := client.tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	client.m.wait, server.m.wait = false, false
	r.n = 0 // the server has asked for all of them
	return client, server
}
