package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"millrace/services/cluster"
)

// several are NATS servers of one cluster, of which the first have been started, and don't know
// that others are to come.
type several struct {
	t    *testing.T
	all  []*server.Server
	urls []string
}

func severalServers(t *testing.T, up int) *several {
	t.Helper()
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
	s := &several{t: t}
	for i, ln := range listeners {
		_ = ln.Close() // its port is the server's
		srv, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), Routes: routes[:max(up, i)],
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.all = append(s.all, srv)
		if i < up {
			s.start(i)
		}
	}
	return s
}

// start starts a server, and waits until it listens.
func (s *several) start(i int) {
	s.t.Helper()
	srv := s.all[i]
	srv.Start()
	s.t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	eventually(s.t, "it listens", func() bool { return srv.Addr() != nil })
	s.urls = append(s.urls, "nats://"+srv.Addr().String())
}

func (s *several) url() string { return strings.Join(s.urls, ",") }

// jetStream is that of a client of the servers.
func (s *several) jetStream() nats.JetStreamContext {
	s.t.Helper()
	nc, err := nats.Connect(s.url())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// Of three servers that start the third one comes late: until then there is no place for the
// third copy.
func TestAStartWaitsForTheServersOfItsCopies(t *testing.T) {
	s := severalServers(t, 2)
	js := s.jetStream()
	few := func() bool {
		_, err := js.AddStream(&nats.StreamConfig{Name: "probe", Replicas: 3})
		var api *nats.APIError
		return errors.As(err, &api) && api.ErrorCode == 10005
	}
	eventually(t, "two servers have a leader, and no peer for a third copy", few)
	var asked atomic.Int32 // for a bucket
	watch, err := nats.Connect(s.url())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if _, err := watch.Subscribe("$JS.API.STREAM.CREATE.>", func(*nats.Msg) { asked.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if err := watch.Flush(); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.New(cluster.Config{URL: s.url(), Replicas: 3, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- c.Start(background) }()
	eventually(t, "the bucket was asked for, and again", func() bool {
		select {
		case err := <-started:
			t.Fatalf("with two servers: got %v", err)
		default:
		}
		return asked.Load() > 1
	})
	s.start(2)
	if err := <-started; err != nil {
		t.Fatalf("with three servers: got %v", err)
	}
	if err := c.Stop(background); err != nil {
		t.Error(err)
	}
}

// A lease without a value is one that a choice of another leader does not end.
func TestTheLeaseOutlastsAnElection(t *testing.T) {
	url := embedded(t).URL()
	for _, c := range []struct {
		name     string
		lease    time.Duration
		replicas int
		want     time.Duration
		warns    bool
	}{
		{"one copy", 0, 1, 3 * time.Second, false},
		{"three copies", 0, 3, 15 * time.Second, false},
		{"three copies, a short lease", 2 * time.Second, 3, 2 * time.Second, true},
		{"one copy, a short lease", 2 * time.Second, 1, 2 * time.Second, false},
	} {
		var log bytes.Buffer
		cache, err := cluster.New(cluster.Config{URL: url, Lease: c.lease, Replicas: c.replicas, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if got := cache.Lease(); got != c.want {
			t.Errorf("%s: a lease of %v, want %v", c.name, got, c.want)
		}
		_ = cache.Start(background) // one server does not hold three copies
		_ = cache.Stop(background)
		if n := strings.Count(log.String(), "the lease is shorter"); n > 1 || n == 1 != c.warns {
			t.Errorf("%s: warned %d times, want %v", c.name, n, c.warns)
		}
	}
}

// Buckets are kept in as many copies as are asked for, those too that stood in fewer; and
// never in fewer than they stand.
func TestBucketsAreKeptInAsManyCopies(t *testing.T) {
	s := severalServers(t, 3)
	js := s.jetStream()
	start := func(replicas int) {
		t.Helper()
		c, err := cluster.New(cluster.Config{URL: s.url(), Lease: steady, Replicas: replicas})
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
