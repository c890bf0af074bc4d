//go:build unix

package dbasync

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dbasync/pgembed"
)

// certificate makes a self-signed one for 127.0.0.1, in PEM.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// tlsServer starts a server that takes nothing but TLS over TCP, and returns a URL for it
// without its sslrootcert, and the file for that.
func tlsServer(t *testing.T) (srv *pgembed.Server, url, root string) {
	t.Helper()
	base, err := os.MkdirTemp("", "tls") // the server's account can't look into t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "db")
	pgembed.ForTest(t, pgembed.Config{}) // skips, or fails in CI
	ctx := context.Background()
	first, err := pgembed.Start(ctx, pgembed.Config{Dir: dir, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(ctx, pgembed.Fast); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t)
	hba := []byte("local all all trust\nhostssl all all 127.0.0.1/32 trust\n")
	for name, b := range map[string][]byte{"server.crt": cert, "server.key": key, "pg_hba.conf": hba} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := giveTo(path, st); err != nil {
			t.Fatal(err)
		}
	}
	srv, err = pgembed.Start(ctx, pgembed.Config{Dir: dir, NoSync: true, TCP: true, Settings: map[string]string{"ssl": "on", "hba_file": filepath.Join(dir, "pg_hba.conf")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop(ctx, pgembed.Immediate) })
	root = filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	url, _, _ = strings.Cut(srv.URL(), "?")
	return srv, url + "?sslmode=verify-full", root
}

func TestTLS(t *testing.T) {
	srv, url, root := tlsServer(t)
	t.Run("stranger", func(t *testing.T) { strangersCertificate(t, url) })
	t.Run("lanes", func(t *testing.T) { lanesOverTLS(t, srv, url, root) })
}

// Lanes speak TLS as pgx has set it up: queries of all sizes, from many goroutines, through
// a restart of the server.
func lanesOverTLS(t *testing.T, srv *pgembed.Server, url, root string) {
	db := openOn(t, url+"&sslrootcert="+root, nil)
	check := func() {
		t.Helper()
		var tls bool
		if err := ask(t, db, Stmt{SQL: "select ssl from pg_stat_ssl where pid = pg_backend_pid()"}).Scan(&tls); err != nil || !tls {
			t.Fatalf("TLS on a lane: %v, %v", tls, err)
		}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 50 {
					n := (g*50+i)*97%40_000 + 1 // beyond a TLS record of 16 KiB
					text := strings.Repeat("x", n)
					var back string
					if err := ask(t, db, Stmt{SQL: "select $1::text"}, text).Scan(&back); err != nil || back != text {
						t.Errorf("%d bytes: %d came back, %v", n, len(back), err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	check()
	if err := srv.Restart(context.Background(), pgembed.Immediate); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r := ask(t, db, Stmt{SQL: "select 1"}); r.Err == nil {
			break
		} else if time.Now().After(until) {
			t.Fatalf("after the restart: %v", r.Err)
		}
	}
	check()
}

// A server whose certificate isn't trusted is not talked to, and the observer hears why.
func strangersCertificate(t *testing.T, url string) {
	other, _ := certificate(t)
	root := filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, other, 0o600); err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 64)
	db := openOn(t, url+"&sslrootcert="+root, func(c *Config) { c.Observer = connects(heard) })
	if err := wait(t, heard); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the observer heard %v", err)
	}
	if db.Connected() {
		t.Error("connected to a stranger")
	}
}

// connects is an observer that hears of connections only.
type connects chan error

func (c connects) OnDBConnect(_ Conn, err error) {
	select {
	case c <- err:
	default:
	}
}
func (connects) OnQueryEnd(QueryResult) {}
