package nodes_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// store is a NATS server in a process of its own, whose memory is told apart.
type store struct {
	b    *testing.B
	part *proctest.Part
	url  string
	js   jetstream.JetStream
}

func startStore(b *testing.B) *store {
	b.Helper()
	s := &store{b: b, part: proctest.Start(b, "nats", "NATS_DIR="+b.TempDir())}
	line, err := s.part.Out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	s.url = strings.TrimSpace(line)
	nc, err := nats.Connect(s.url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	if s.js, err = jetstream.New(nc); err != nil {
		b.Fatal(err)
	}
	return s
}

// resident is the server's memory in bytes.
func (s *store) resident() float64 {
	s.b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.part.Cmd.Process.Pid))
	if err != nil {
		s.b.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		s.b.Fatal(err)
	}
	return float64(pages * os.Getpagesize())
}

// state is that of one of the buckets.
func (s *store) state(bucket string) jetstream.StreamState {
	s.b.Helper()
	stream, err := s.js.Stream(background, "KV_"+bucket)
	if err != nil {
		s.b.Fatal(err)
	}
	return stream.CachedInfo().State
}

func held() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// many runs fn for each number below n, 64 at a time.
func many(b *testing.B, n int, fn func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var work sync.WaitGroup
	for range 64 {
		work.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				if err := fn(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// BenchmarkConstants measures what docs/cluster-growth.md counts with: what one binding, one
// room, one group and one node that does nothing cost those who have nothing to do with it.
func BenchmarkConstants(b *testing.B) {
	b.Run("binding", func(b *testing.B) {
		const n = 20_000
		s := startStore(b)
		a := start(b, s.url, "a", func(c *settings) { c.MaxSessionUsers = n })
		c := a.dial()
		heap, rss, bytes := held(), s.resident(), s.state("millrace").Bytes
		many(b, n, func(i int) error {
			_, err := a.Bind(background, c.s, about, fmt.Sprintf("user-%08d", i))
			return err
		})
		b.ReportMetric((held()-heap)/n, "B-its-node")
		b.ReportMetric((s.resident()-rss)/n, "B-NATS-memory")
		b.ReportMetric(float64(s.state("millrace").Bytes-bytes)/n, "B-bucket")
		b.ReportMetric(float64(b.Elapsed().Microseconds())/n, "µs-each")
	})
	b.Run("room", func(b *testing.B) {
		const n = 10_000
		s := startStore(b)
		var homes *nodes.Homes[int]
		start(b, s.url, "a", func(c *settings) {
			c.before = func(node *nodes.Node) {
				var err error
				if homes, err = nodes.NewHomes(node, nodes.HomesConfig[int]{Name: "c", Idle: engine.Off,
					Handle: func(*nodes.Home[int], []byte) ([]byte, error) { return nil, nil }}); err != nil {
					b.Fatal(err)
				}
			}
		})
		heap, rss, bytes := held(), s.resident(), s.state("millrace_locks").Bytes
		many(b, n, func(i int) error {
			_, err := homes.Ask(background, fmt.Sprintf("room-%08d", i), nil)
			return err
		})
		b.ReportMetric((held()-heap)/n, "B-its-home")
		b.ReportMetric((s.resident()-rss)/n, "B-NATS-memory")
		b.ReportMetric(float64(s.state("millrace_locks").Bytes-bytes)/n, "B-bucket")
		b.ReportMetric(float64(b.Elapsed().Microseconds())/n, "µs-each")
		other, err := cluster.New(cluster.Config{URL: s.url, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		heap, began := held(), time.Now()
		if err := other.Start(background); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/n, "µs-each-node-reads-it")
		b.ReportMetric((held()-heap)/n, "B-each-node")
		if err := other.Stop(background); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("group", func(b *testing.B) {
		const n, each = 6400, 64 // groups of one session
		s := startStore(b)
		all := together(b, s.url, "a b")
		var sessions []*engine.Session
		for range n / each {
			sessions = append(sessions, all[0].dial().s)
		}
		heap, rss := held(), s.resident()
		many(b, n, func(i int) error {
			_, err := all[0].Join(background, sessions[(i-1)/each], fmt.Sprintf("group-%08d", i))
			return err
		})
		b.ReportMetric((held()-heap)/n, "B-its-node")
		b.ReportMetric((s.resident()-rss)/n, "B-NATS-memory")
		b.ReportMetric(float64(b.Elapsed().Microseconds())/n, "µs-each")
	})
	b.Run("idle", func(b *testing.B) {
		const term = time.Second
		s := startStore(b)
		all := together(b, s.url, "a b c", lease(term))
		seq, beats := s.state("millrace_locks").LastSeq, all[0].Stats().Beats
		ctx, cancel := context.WithTimeout(background, 6*term) // what is measured
		defer cancel()
		<-ctx.Done()
		b.ReportMetric(float64(s.state("millrace_locks").LastSeq-seq)/6/3, "writes-a-lease-and-node")
		b.ReportMetric(float64(all[0].Stats().Beats-beats)/6/2, "beats-a-lease-of-each-other")
	})
}
