package cluster_test

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"millrace/services/cluster"
)

// Buckets are kept in as many copies as are asked for, those too that stood in fewer; and
// never in fewer than they stand.
func TestBucketsAreKeptInAsManyCopies(t *testing.T) {
	var routes []*url.URL
	var listeners []net.Listener
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, ln)
		routes = append(routes, &url.URL{Scheme: "nats", Host: ln.Addr().String()})
	}
	var urls []string
	var all []*server.Server
	for i, ln := range listeners {
		_ = ln.Close() // its port is the server's
		srv, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), Routes: routes,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port},
		})
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		t.Cleanup(func() {
			srv.Shutdown()
			srv.WaitForShutdown()
		})
		all = append(all, srv)
	}
	for _, srv := range all {
		eventually(t, "it listens", func() bool { return srv.Addr() != nil })
		urls = append(urls, "nats://"+srv.Addr().String())
	}
	nc, err := nats.Connect(strings.Join(urls, ","))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	start := func(replicas int) {
		t.Helper()
		c, err := cluster.New(cluster.Config{URL: strings.Join(urls, ","), Lease: steady, Replicas: replicas})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "it has started", func() bool { err = c.Start(background); return err == nil }) // they choose a leader first
		if _, err := c.Set(background, "k", []byte("v"), 0); err != nil {
			t.Error(err)
		}
		if err := c.Stop(background); err != nil {
			t.Error(err)
		}
	}
	for i, want := range []int{1, 3, 3} {
		start([]int{1, 3, 1}[i])
		for _, name := range []string{"KV_millrace", "KV_millrace_locks"} {
			info, err := js.StreamInfo(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Config.Replicas; got != want {
				t.Errorf("step %d: %s has %d copies, want %d", i, name, got, want)
			}
		}
	}
}
