// Package certs holds a server's certificates: loaded from files, reloaded when these change,
// selected by the client's server name, or self-signed for trials.
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

	"millrace/internal/userfile"
)

// Pair names the files of a certificate with its chain and of its key, both PEM.
type Pair struct{ Cert, Key string }

// Store holds the certificates in use. Its methods may be called from any goroutine, except Watch.
type Store struct {
	pairs []Pair
	now   atomic.Pointer[[]*tls.Certificate]
	seen  string // state of the files when they were last read; used by Watch only
}

// Load loads pairs of files. The error names the pair that can't be read or whose key doesn't
// match.
func Load(pairs []Pair) (*Store, error) {
	s := &Store{pairs: pairs}
	s.seen = s.look()
	return s, s.load()
}

// SelfSigned returns a Store with a self-signed certificate for localhost.
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

// load loads all pairs; if one fails, the certificates in use are kept.
func (s *Store) load() error {
	var list []*tls.Certificate
	for _, p := range s.pairs {
		c, err := userfile.KeyPair(p.Cert, p.Key)
		if err != nil {
			if b, _ := userfile.Read(p.Key, userfile.MaxPEM); bytes.Contains(b, []byte("ENCRYPTED")) {
				err = errors.New("the key has a passphrase, which can't be given here; store the key without one")
			}
			return fmt.Errorf("%s and %s: %w", p.Cert, p.Key, reason(err))
		}
		list = append(list, &c)
	}
	s.now.Store(&list)
	return nil
}

// reason returns an error of crypto/tls without its package prefix.
func reason(err error) error {
	if rest, ok := strings.CutPrefix(err.Error(), "tls: "); ok {
		return errors.New(rest)
	}
	return err
}

// GetCertificate implements the tls.Config callback: it returns the first certificate that the
// client supports and that has the client's server name, else the first one.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	list := *s.now.Load()
	for _, c := range list {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return list[0], nil
}

// look returns a description of the files' state.
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

// outOfDate logs which of the certificates in use clients will refuse.
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

// Watch reloads the files when they have changed, which it checks at intervals of every and
// whenever now receives a signal. It returns when done is closed.
func (s *Store) Watch(every time.Duration, now <-chan os.Signal, done <-chan struct{}, log *slog.Logger) {
	if len(s.pairs) == 0 {
		s.ignore(now, done, log)
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
			log.Warn("certificates could not be reloaded: the previous ones stay in use", "err", err)
			continue
		}
		log.Info("certificates reloaded", "pairs", len(s.pairs))
		s.outOfDate(log)
	}
}

// ignore says of each signal that there is nothing to reload, until done is closed.
func (s *Store) ignore(now <-chan os.Signal, done <-chan struct{}, log *slog.Logger) {
	for {
		select {
		case <-done:
			return
		case sig := <-now:
			log.Info("nothing to reload: no certificate is from a file", "signal", sig.String())
		}
	}
}

// Pool reads CA certificates from a PEM file.
func Pool(file string) (*x509.CertPool, error) {
	b, err := userfile.Read(file, userfile.MaxPEM)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate in PEM", file)
	}
	return pool, nil
}
