package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/proctest"
)

func init() { proctest.Role("nats of several", natsOfSeveral) }

// natsOfSeveral is a NATS server of a cluster, in a process of its own.
func natsOfSeveral() {
	port, _ := strconv.Atoi(os.Getenv("NATS_PORT"))
	route, _ := strconv.Atoi(os.Getenv("NATS_ROUTE"))
	srv, err := server.NewServer(&server.Options{
		ServerName: os.Getenv("NATS_NAME"), Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: os.Getenv("NATS_DIR"), JetStreamMaxStore: 2 << 30, JetStreamMaxMemory: 64 << 20,
		Cluster: server.ClusterOpts{Name: "several", Host: "127.0.0.1", Port: route}, Routes: server.RoutesFromStr(os.Getenv("NATS_ROUTES")),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv.Start()
	fmt.Println("started")
	_ = bufio.NewScanner(os.Stdin).Scan() // until the parent ends it
	srv.Shutdown()
}

// natsCluster are three of them.
type natsCluster struct {
	t     *testing.T
	dir   string
	ports [3]int
	route [3]int
	parts [3]*proctest.Part
	nc    *nats.Conn
	js    jetstream.JetStream
}

// threeNATS starts them.
func threeNATS(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t, dir: t.TempDir()}
	for i := range c.parts {
		c.ports[i], c.route[i] = freePort(t), freePort(t)
	}
	for i := range c.parts {
		c.start(i)
	}
	var err error
	if c.nc, err = nats.Connect(c.url(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.nc.Close)
	if c.js, err = jetstream.New(c.nc); err != nil {
		t.Fatal(err)
	}
	soon(t, patience, "the NATS servers have a leader", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.js.AccountInfo(ctx)
		return err == nil
	})
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (c *natsCluster) name(i int) string { return "nats" + strconv.Itoa(i) }

func (c *natsCluster) start(i int) {
	c.t.Helper()
	var routes []string
	for _, r := range c.route {
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", r))
	}
	c.parts[i] = proctest.Start(c.t, "nats of several", "NATS_NAME="+c.name(i), fmt.Sprint("NATS_PORT=", c.ports[i]), fmt.Sprint("NATS_ROUTE=", c.route[i]),
		"NATS_ROUTES="+strings.Join(routes, ","), "NATS_DIR="+filepath.Join(c.dir, c.name(i)))
	if line, err := c.parts[i].Out.ReadString('\n'); err != nil || line != "started\n" {
		c.t.Fatalf("NATS server: %q, %v", line, err)
	}
}

// url is what --cluster takes.
func (c *natsCluster) url() string {
	var all []string
	for _, p := range c.ports {
		all = append(all, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	return strings.Join(all, ",")
}

// leader is the server that leads the stream of the locks.
func (c *natsCluster) leader() (i int) {
	c.t.Helper()
	soon(c.t, patience, "the stream of the locks has a leader", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := c.js.Stream(ctx, "KV_millrace_locks")
		if err != nil || s.CachedInfo().Cluster == nil {
			return false
		}
		if n := s.CachedInfo().Config.Replicas; n != 3 {
			c.t.Fatalf("the bucket of the locks stands in %d copies, want 3", n)
		}
		for i = range c.parts {
			if s.CachedInfo().Cluster.Leader == c.name(i) {
				return true
			}
		}
		return false
	})
	return i
}
