package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// write makes a pair of files with a new certificate, and returns its DER.
func write(t *testing.T, p Pair) []byte {
	t.Helper()
	s, err := SelfSigned()
	if err != nil {
		t.Fatal(err)
	}
	c := (*s.now.Load())[0]
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{p.Cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, p.Key: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c.Certificate[0]
}

// Changed files are in force soon; a pair that doesn't fit leaves the last one so.
func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	p := Pair{filepath.Join(dir, "cert"), filepath.Join(dir, "key")}
	write(t, p)
	s, err := Load([]Pair{p})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(5*time.Millisecond, nil, done, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	defer func() { close(done); <-ended }()
	inForce := func() string {
		c, err := s.GetCertificate(&tls.ClientHelloInfo{ServerName: "nobody"})
		if err != nil {
			t.Fatal(err)
		}
		return string(c.Certificate[0])
	}
	until := func(want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); inForce() != want; {
			if time.Now().After(end) {
				t.Fatal("the new certificate is not in force")
			}
			time.Sleep(time.Millisecond)
		}
	}
	second := string(write(t, p))
	until(second)
	if err := os.WriteFile(p.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.load(); err == nil || inForce() != second {
		t.Fatalf("a broken key: %v", err)
	}
	until(string(write(t, p)))
}
