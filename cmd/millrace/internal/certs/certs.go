// Package certs keeps a server's certificates: read from files, read again when these
// change, chosen by the name that a client asks for, or made in memory for trying.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Pair names the files of a certificate, with its chain, and its key, both PEM.
type Pair struct{ Cert, Key string }

// Store holds the certificates in force. Its methods may be called from any goroutine, but
// for Watch.
type Store struct {
	pairs []Pair
	now   atomic.Pointer[[]*tls.Certificate]
	seen  string // what the files looked like when they were last read; Watch's
}

// Load reads pairs of files. The error names the one that can't be read or doesn't fit.
func Load(pairs []Pair) (*Store, error) {
	s := &Store{pairs: pairs}
	s.seen = s.look()
	return s, s.load()
}

// SelfSigned is a Store with a certificate for localhost that nobody vouches for.
func SelfSigned() (*Store, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	s := &Store{}
	s.now.Store(&[]*tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}})
	return s, nil
}

// load reads all pairs; if one can't be, those in force stay so.
func (s *Store) load() error {
	var list []*tls.Certificate
	for _, p := range s.pairs {
		c, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			if b, _ := os.ReadFile(p.Key); bytes.Contains(b, []byte("ENCRYPTED")) {
				err = errors.New("the key has a passphrase, which nobody can give here: write it without")
			}
			return fmt.Errorf("%s and %s: %w", p.Cert, p.Key, reason(err))
		}
		list = append(list, &c)
	}
	s.now.Store(&list)
	return nil
}

// reason is an error of crypto/tls without its package.
func reason(err error) error {
	if rest, ok := strings.CutPrefix(err.Error(), "tls: "); ok {
		return errors.New(rest)
	}
	return err
}

// GetCertificate is for tls.Config: the first certificate that the client can use and that
// has the name it asks for, or else the first.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	list := *s.now.Load()
	for _, c := range list {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return list[0], nil
}

// look says what the files look like.
func (s *Store) look() string {
	var b strings.Builder
	for _, p := range s.pairs {
		for _, name := range []string{p.Cert, p.Key} {
			if st, err := os.Stat(name); err == nil {
				fmt.Fprintln(&b, st.ModTime().UnixNano(), st.Size())
			} else {
				fmt.Fprintln(&b, "gone")
			}
		}
	}
	return b.String()
}

// outOfDate says which of the certificates in force clients will refuse.
func (s *Store) outOfDate(log *slog.Logger) {
	for i, c := range *s.now.Load() {
		leaf, now := c.Leaf, time.Now()
		switch {
		case leaf == nil:
		case now.After(leaf.NotAfter):
			log.Warn("certificate has expired: clients will refuse it until it is replaced", "file", s.pairs[i].Cert, "at", leaf.NotAfter)
		case now.Before(leaf.NotBefore):
			log.Warn("certificate is not valid yet: clients will refuse it until then", "file", s.pairs[i].Cert, "from", leaf.NotBefore)
		}
	}
}

// Watch reads the files again when they have changed, which it looks for each time every
// has gone by, and whenever now has something. It returns when done is closed.
func (s *Store) Watch(every time.Duration, now <-chan os.Signal, done <-chan struct{}, log *slog.Logger) {
	if len(s.pairs) == 0 {
		return
	}
	s.outOfDate(log)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-now:
		case <-t.C:
			if s.look() == s.seen {
				continue
			}
		}
		s.seen = s.look()
		if err := s.load(); err != nil {
			log.Warn("certificates not changed: those in force stay", "err", err)
			continue
		}
		log.Info("certificates read again", "pairs", len(s.pairs))
		s.outOfDate(log)
	}
}

// Pool reads the certificates of authorities from a PEM file.
func Pool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate in PEM", file)
	}
	return pool, nil
}
