package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// A call to a suspended node ends when the node's lease ends, with an error that says that it may have
// run, and not only at its own deadline.
func TestWhatADeadNodeWasAskedEndsWithItsLease(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	on := map[string]*counters{}
	runs, release := make(chan struct{}, 9), make(chan struct{})
	defer close(release)
	quick := func(s *settings) {
		s.lease, s.Timeout = 1500*time.Millisecond, 50*time.Second
		withCounters(t, on, false)(s)
	}
	a := start(t, srv, "a", quick)
	b := start(t, cut, "b", func(s *settings) {
		quick(s)
		rooms := s.before
		s.before = func(n *nodes.Node) {
			rooms(n)
			_ = nodes.Serve(n, hSum, func(context.Context, *sum) (total, error) {
				runs <- struct{}{}
				<-release
				return total{}, nil
			})
		}
	})
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	room := ""
	for i := 0; room == ""; i++ { // one whose home is b
		key := fmt.Sprint(i)
		if got, err := on["a"].add(background, key, 1); err != nil {
			t.Fatal(err)
		} else if got.Node == "b" {
			room = key
		}
	}
	c := b.dial()
	b.bind(c, "ann")
	eventually(t, "a knows what b serves", func() bool { // so that it chooses b itself
		for _, m := range a.List() {
			if m.Name == "b" && nodes.Serves(m, hSum) {
				return true
			}
		}
		return false
	})
	var asking sync.WaitGroup
	for what, ask := range map[string]func() error{
		"by name": func() error { _, err := a.call(nodes.CallOptions{Node: "b"}); return err },
		"by key":  func() error { _, err := a.call(nodes.CallOptions{Key: "k"}); return err },
		"of any":  func() error { _, err := a.call(nodes.CallOptions{}); return err },
	} {
		asking.Go(func() {
			if err := ask(); !errors.Is(err, cluster.ErrLost) {
				t.Errorf("a call %s: got %v, want ErrLost", what, err)
			}
		})
		<-runs
	}
	proxy.Stall(faultproxy.Both)
	asking.Go(func() {
		if _, err := on["a"].add(background, room, 1); !errors.Is(err, cluster.ErrLost) {
			t.Errorf("a message to room %q: got %v, want ErrLost", room, err)
		}
	})
	asking.Go(func() {
		if _, err := a.SendUser(background, "ann", 6, 6, nil); !errors.Is(err, cluster.ErrLost) {
			t.Errorf("a send to a user: got %v, want ErrLost", err)
		}
	})
	at := time.Now()
	asking.Wait()
	if took := time.Since(at); took > 40*time.Second {
		t.Errorf("it took %v, as long as their own time", took)
	}
	proxy.Heal()
}
