package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/services/cluster"
)

// A cluster that is not there yet is no reason not to serve: 5/* are ERROR 11 until it is.
func TestAClusterMayComeLater(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--cluster=nats://sesame@"+addr.String())
	c := s.dial()
	c.echo("x")
	c.send(5, 2, `{"key":"k"}`)
	c.wantError(11, 5, 2)
	c.send(5, 4, `{"key":"k","ttl_ms":1000,"wait_ms":600000}`) // not waited for
	c.wantError(11, 5, 4)
	n, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir, Port: addr.Port})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	if !strings.HasSuffix(n.URL(), ":"+strconv.Itoa(addr.Port)) {
		t.Fatalf("it listens at %s, want %v", n.URL(), addr)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		c.send(5, 1, `{"key":"k","val":1}`)
		f := c.recv()
		if f.main == 5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %v", f)
		}
	}
	c.finish()
	s.stop()
}
