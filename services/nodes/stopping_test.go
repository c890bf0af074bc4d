package nodes_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/services/cluster"
	"millrace/services/nodes"
)

// logged is what has been logged.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// While a node stops, and waits for the calls that run, calls of any node are answered by the others, and it does not try to
// have its name again.
func TestCallsGoElsewhereWhileANodeStops(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	defer free()
	log := &logged{}
	all := together(t, servers(t), "a b gate", func(s *settings) {
		s.Timeout, s.lease = 30*time.Second, time.Second
		if s.Name == "a" {
			s.Logger = slog.New(slog.NewTextHandler(log, nil))
		}
		s.before = func(n *nodes.Node) {
			if n.Name() == "gate" {
				return
			}
			_ = nodes.Serve(n, hSum, func(_ context.Context, req *sum) (total, error) {
				if req.A == 100 {
					close(entered)
					<-release
				}
				return total{Node: n.Name()}, nil
			})
		}
	})
	a, gate := all[0], all[2]
	gate.knows("a=up b=up gate=up")
	runs := make(chan error, 1)
	go func() {
		_, err := nodes.Call[sum, total](background, gate.Node, hSum, sum{A: 100}, nodes.CallOptions{Node: "a"})
		runs <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- a.Node.Stop(background) }()
	eventually(t, "it stops", func() bool {
		_, err := gate.call(nodes.CallOptions{Node: "a"})
		return errors.Is(err, cluster.ErrUnavailable)
	})
	for range 50 {
		if got, err := gate.call(nodes.CallOptions{}); err != nil || got.Node != "b" {
			t.Fatalf("of any node: %+v, %v; want b's answer", got, err)
		}
	}
	gate.knows("a=draining b=up gate=up")
	time.Sleep(1500 * time.Millisecond) // longer than a lease: nothing is to happen
	free()
	if err := <-runs; err != nil {
		t.Error("the call that ran:", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if s := log.String(); strings.Contains(s, "joined") {
		t.Errorf("it has tried to join while it stopped:\n%s", s)
	}
}
