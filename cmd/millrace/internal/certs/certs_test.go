package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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

// A certificate that clients will refuse is told, when it is read.
func TestCertificatesOutOfDateAreTold(t *testing.T) {
	for _, test := range []struct {
		from, to time.Duration
		want     string
	}{{-time.Hour, time.Hour, ""}, {-2 * time.Hour, -time.Hour, "expired"}, {time.Hour, 2 * time.Hour, "not valid yet"}} {
		s, err := SelfSigned()
		if err != nil {
			t.Fatal(err)
		}
		s.pairs = []Pair{{Cert: "the.pem"}}
		now := time.Now()
		(*s.now.Load())[0].Leaf = &x509.Certificate{NotBefore: now.Add(test.from), NotAfter: now.Add(test.to)}
		var log strings.Builder
		done := make(chan struct{})
		close(done)
		s.Watch(time.Hour, nil, done, slog.New(slog.NewTextHandler(&log, nil)))
		if got := log.String(); test.want == "" && got != "" || !strings.Contains(got, test.want) || test.want != "" && !strings.Contains(got, "the.pem") {
			t.Errorf("from %v to %v: %q, want %q", test.from, test.to, got, test.want)
		}
	}
}
