package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"millrace/services/cluster"
)

// natsWith starts a NATS server, and returns its address.
func natsWith(t *testing.T, change func(*server.Options)) string {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	change(o)
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("no server")
	}
	return srv.Addr().String()
}

func newSeed(t *testing.T) (file, public string) {
	t.Helper()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err = user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, public
}

// Servers that refuse, that are not whom they should be, or that can't do what is asked, are
// one line that names the flag, its value and the way out; and those that don't are joined.
func TestServersThatRefuseAreOneLine(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "localhost")
	other, _ := certificate(t, "localhost")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	seed, public := newSeed(t)
	stranger, _ := newSeed(t)
	withTLS := natsWith(t, func(o *server.Options) {
		o.TLS, o.TLSConfig, o.TLSTimeout = true, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, 10
		o.Nkeys = []*server.NkeyUser{{Nkey: public}}
	})
	embedded, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(embedded.Stop)
	_, plain, _ := strings.Cut(embedded.URL(), "@")
	for _, x := range []struct {
		name string
		args []string
		want []string // parts of the line
	}{
		{"a wrong token", []string{"--cluster=nats://hush@" + plain}, []string{`--cluster "nats://***@` + plain + `"`, "refuse", "give the token"}},
		{"another's key", []string{"--cluster=nats://" + withTLS, "--cluster-tls-ca=" + cert, "--cluster-nkey=" + stranger}, []string{`--cluster-nkey "` + stranger + `"`, "refuse", "give the seed"}},
		{"another authority", []string{"--cluster=nats://" + withTLS, "--cluster-tls-ca=" + other, "--cluster-nkey=" + seed}, []string{`--cluster-tls-ca "` + other + `"`, "certificate", "give the CA certificate"}},
		{"no authority", []string{"--cluster=nats://" + withTLS, "--cluster-nkey=" + seed}, []string{`--cluster "nats://` + withTLS + `"`, "certificate", "--cluster-tls-ca"}},
		{"too many copies", []string{"--cluster=" + embedded.URL(), "--cluster-replicas=3"}, []string{"--cluster-replicas 3: the servers don't hold so many copies", "give a lower number"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			at := time.Now()
			out, errOut, code := millrace(t, nil, "", append([]string{"serve", "--addr=tcp://127.0.0.1:0"}, x.args...)...)
			line := strings.TrimSpace(errOut)
			if code != exitNoServer || out != "" || strings.Contains(line, "\n") || strings.Contains(line, "hush") {
				t.Errorf("exit code %d after %v, %q, %q, want %d and one line", code, time.Since(at), out, line, exitNoServer)
			}
			for _, want := range x.want {
				if !strings.Contains(line, want) {
					t.Errorf("got %q, want %q in it", line, want)
				}
			}
		})
	}
	s := serve(t, "--cluster=nats://"+withTLS, "--cluster-tls-ca="+cert, "--cluster-nkey="+seed)
	c := s.dial()
	c.send(5, 1, `{"key":"k","val":1}`)
	if f := c.recv(); f.main != 5 {
		t.Errorf("with both of them right: got %v", f)
	}
	c.finish()
	s.stop()
}
