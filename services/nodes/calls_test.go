package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/internal/faultproxy"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

type sum struct {
	A int `json:"a"`
	B int `json:"b"`
}

type total struct {
	Sum  int    `json:"sum"`
	Node string `json:"node"`
	By   string `json:"by"`
}

var (
	hSum   = services.Handle(4, 3)
	hOther = services.Handle(4, 4)
)

// sums serves hSum on a node.
func sums(t testing.TB) func(*settings) {
	return func(s *settings) {
		s.before = func(n *nodes.Node) {
			err := nodes.Serve(n, hSum, func(ctx context.Context, req *sum) (total, error) {
				if req.A < 0 {
					return total{}, services.Errorf(engine.CodeNotFound, "below zero")
				}
				by, _ := nodes.CallerOf(ctx)
				return total{req.A + req.B, n.Name(), by.Node + " " + by.User}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// callsMade has every other call made by CallThen: what is promised of one holds for the other.
var callsMade atomic.Int64

func (m *member) call(o nodes.CallOptions) (total, error) {
	if callsMade.Add(1)%2 == 0 {
		return m.callAndWait(o)
	}
	return m.callThen(o)
}

func (m *member) callAndWait(o nodes.CallOptions) (total, error) {
	return nodes.Call[sum, total](background, m.Node, hSum, sum{1, 2}, o)
}

// callThen waits for what CallThen tells.
func (m *member) callThen(o nodes.CallOptions) (res total, err error) {
	told := make(chan struct{})
	nodes.CallThen(background, m.Node, hSum, sum{1, 2}, o, func(got total, e error) {
		res, err = got, e
		close(told) // again would be a panic
	})
	<-told
	return res, err
}

func TestWhatFollowsACall(t *testing.T) {
	srv := servers(t)
	called := make(chan context.Context, 1)
	all := together(t, srv, "a b", func(s *settings) {
		s.MaxCalls = 1
		s.before = func(n *nodes.Node) {
			err := nodes.Serve(n, hOther, func(ctx context.Context, _ *sum) (total, error) {
				called <- ctx
				<-ctx.Done()
				return total{}, ctx.Err()
			})
			err = errors.Join(err, nodes.Serve(n, hSum, func(_ context.Context, req *sum) (total, error) { return total{Sum: req.A}, nil }))
			if err != nil {
				t.Error(err)
			}
		}
	})
	a := all[0]
	rest := func() {
		t.Helper()
		eventually(t, "nothing runs", func() bool { return all[0].Stats().Calls+all[1].Stats().Calls == 0 })
	}
	then := func(ctx context.Context, handle uint32, o nodes.CallOptions) <-chan error {
		told := make(chan error, 2)
		nodes.CallThen(ctx, a.Node, handle, sum{}, o, func(_ total, err error) { told <- err })
		return told
	}
	for _, node := range []string{"a", "b"} {
		at := time.Now()
		told := then(background, hOther, nodes.CallOptions{Node: node, Timeout: 200 * time.Millisecond})
		until, ok := (<-called).Deadline()
		if left := until.Sub(at); !ok || left < 100*time.Millisecond || left > time.Second {
			t.Errorf("%s: the service has %v, %v", node, left, ok)
		}
		if node == "a" { // it counts as one that runs here
			if err := <-then(background, hSum, nodes.CallOptions{Node: "a"}); !errors.Is(err, cluster.ErrOverloaded) {
				t.Errorf("past MaxCalls: got %v", err)
			}
		}
		if err := <-told; err == nil {
			t.Errorf("%s: it was answered", node)
		}
		if took := time.Since(at); took < 190*time.Millisecond { // what is left travels in whole milliseconds
			t.Errorf("%s: it ended after %v", node, took)
		}
		rest()
	}
	// The nearer of the two times counts, for those who wait, too.
	short, cancel := context.WithTimeout(background, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	told := then(short, hOther, nodes.CallOptions{Node: "b", Timeout: time.Hour})
	<-called
	if err := <-told; err == nil || time.Since(began) > patience {
		t.Errorf("a context's deadline: %v after %v", err, time.Since(began))
	}
	rest()
	if _, err := nodes.Call[sum, total](background, a.Node, hOther, sum{}, nodes.CallOptions{Node: "b", Timeout: 50 * time.Millisecond}); err == nil {
		t.Error("Call with a Timeout was answered")
	}
	<-called
	rest()
	// A panic in what follows is contained, and those behind it are told.
	for _, node := range []string{"a", "b"} {
		followed := make(chan struct{})
		nodes.CallThen(background, a.Node, hSum, sum{}, nodes.CallOptions{Node: node}, func(total, error) {
			close(followed)
			panic("planned")
		})
		<-followed
		rest()
		if err := <-then(background, hSum, nodes.CallOptions{Node: node}); err != nil {
			t.Errorf("behind a panic: %v", err)
		}
		rest()
	}
}

func TestCallsFindTheirNode(t *testing.T) {
	srv := servers(t)
	all := together(t, srv, "a b c", sums(t))
	gate := start(t, srv, "gate") // serves nothing
	gate.knows("a=up b=up c=up gate=up")
	for _, name := range []string{"a", "b", "c"} {
		if got, err := gate.call(nodes.CallOptions{Node: name, User: "ann"}); got != (total{3, name, "gate ann"}) || err != nil {
			t.Errorf("by name: %+v, %v", got, err)
		}
	}
	seen := map[string]int{}
	for range 60 {
		got, err := gate.call(nodes.CallOptions{})
		if got.Sum != 3 || err != nil {
			t.Fatal(got, err)
		}
		seen[got.Node]++
	}
	if len(seen) != 3 {
		t.Errorf("60 calls of any node: %v, want all three", seen)
	}
	if got, err := all[1].call(nodes.CallOptions{}); got.Node != "b" || err != nil {
		t.Errorf("of any node where it is served: %+v, %v", got, err)
	}
	// By key: always the same, for all callers; and of three nodes one that goes moves its own.
	home := map[int]string{}
	for key := range 60 {
		got, err := gate.call(nodes.CallOptions{Key: fmt.Sprint(key)})
		if err != nil {
			t.Fatal(err)
		}
		home[key] = got.Node
		if got, err = all[0].call(nodes.CallOptions{Key: fmt.Sprint(key)}); got.Node != home[key] || err != nil {
			t.Fatalf("key %d: %s and %s, %v", key, home[key], got.Node, err)
		}
	}
	all[2].SetState(nodes.Draining)
	gate.knows("a=up b=up c=draining gate=up")
	moved := 0
	for key := range 60 {
		got, err := gate.call(nodes.CallOptions{Key: fmt.Sprint(key)})
		if err != nil || got.Node == "c" || home[key] != "c" && got.Node != home[key] {
			t.Fatalf("key %d of %s: now %+v, %v", key, home[key], got, err)
		}
		if home[key] == "c" {
			moved++
		}
	}
	if moved < 5 || moved > 40 {
		t.Errorf("%d of 60 keys were c's", moved)
	}
	for range 30 {
		if got, err := gate.call(nodes.CallOptions{}); got.Node == "c" || err != nil {
			t.Fatalf("of any node while c drains: %+v, %v", got, err)
		}
	}
	if got, err := gate.call(nodes.CallOptions{Node: "c"}); got.Node != "c" || err != nil {
		t.Errorf("by the name of one that drains: %+v, %v", got, err)
	}
}

func TestACallHasOneOutcome(t *testing.T) {
	all := together(t, servers(t), "a b", func(s *settings) {
		s.Timeout = 10 * time.Second
		s.MaxCalls = 1
	})
	a, b := all[0], all[1]
	at := time.Now()
	for _, o := range []nodes.CallOptions{{}, {Node: "nobody"}, {Node: "b"}, {Key: "k"}} {
		if _, err := a.call(o); !errors.Is(err, cluster.ErrUnavailable) {
			t.Errorf("%+v: got %v, want ErrUnavailable", o, err)
		}
	}
	if took := time.Since(at); took > 9*time.Second {
		t.Errorf("that nobody is there took %v, want at once", took)
	}
	release, runs := make(chan struct{}), make(chan struct{}, 9)
	serve := func(fn func(ctx context.Context, req *sum) (total, error)) {
		t.Helper()
		if err := nodes.Serve(b.Node, hSum, fn); err != nil {
			t.Fatal(err)
		}
	}
	serve(func(ctx context.Context, req *sum) (total, error) {
		switch req.A {
		case -1:
			panic("on purpose")
		case -2:
			return total{}, services.Errorf(engine.CodeNotFound, "no such thing")
		case -3:
			runs <- struct{}{}
			<-release
		}
		return total{}, ctx.Err()
	})
	call := func(ctx context.Context, a1 int) error {
		_, err := nodes.Call[sum, total](ctx, a.Node, hSum, sum{A: a1}, nodes.CallOptions{Node: "b"})
		return err
	}
	if e := services.ErrorOf(call(background, -1)); e.Code != engine.CodeInternal {
		t.Errorf("a panic: got %v", e)
	}
	if e := services.ErrorOf(call(background, -2)); e.Code != engine.CodeNotFound || e.Text != "no such thing" {
		t.Errorf("an error: got %v", e)
	}
	if e := services.ErrorOf(func() error {
		_, err := nodes.Call[string, total](background, a.Node, hSum, "no object", nodes.CallOptions{Node: "b"})
		return err
	}()); e.Code != engine.CodeBadBody {
		t.Errorf("a wrong type: got %v", e)
	}
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	// A call whose deadline passes before b reads it does not run: then the next has more time.
	runsFor := func(within time.Duration) bool {
		short, cancel := context.WithTimeout(background, within)
		defer cancel()
		switch err := call(short, -3); {
		case errors.Is(err, cluster.ErrNoAnswer):
		case errors.Is(err, cluster.ErrOverloaded): // an earlier one runs
		case errors.Is(err, cluster.ErrUnavailable): // no time was left to send it
		default:
			t.Fatalf("past the deadline: got %v, want ErrNoAnswer", err)
		}
		select {
		case <-runs: // it holds b's one place
			return true
		case <-time.After(within):
			return false
		}
	}
	for within := 300 * time.Millisecond; !runsFor(within); within *= 2 {
		if within > patience {
			t.Fatalf("no call has run within %v", within)
		}
	}
	if err := call(background, 1); !errors.Is(err, cluster.ErrOverloaded) {
		t.Errorf("past MaxCalls: got %v, want ErrOverloaded", err)
	}
	free()
	eventually(t, "b has a place again", func() bool { return call(background, 1) == nil })
	if st := b.Stats(); st.Overloaded == 0 || st.Calls != 0 && st.Calls != 1 {
		t.Errorf("b counts %+v", st)
	}
}

func TestCallsInACircleEnd(t *testing.T) {
	all := together(t, servers(t), "a b", func(s *settings) { s.Timeout = 20 * time.Second })
	var n atomic.Int32
	for i, m := range all {
		to := all[1-i].Name()
		if err := nodes.Serve(m.Node, hOther, func(ctx context.Context, req *sum) (total, error) {
			n.Add(1)
			return nodes.Call[sum, total](ctx, m.Node, hOther, *req, nodes.CallOptions{Node: to})
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := nodes.Call[sum, total](background, all[0].Node, hOther, sum{}, nodes.CallOptions{Node: "b"})
	if e := services.ErrorOf(err); e.Text != nodes.ErrHops.Text || n.Load() != 9 {
		t.Errorf("got %v after %d calls, want ErrHops after 9", err, n.Load())
	}
}

// A call that reaches a node while it is suspended does not run if its caller has given up meanwhile.
func TestACallThatNobodyWaitsForDoesNotRun(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	var ran atomic.Int32
	a := start(t, srv, "a")
	b := start(t, cut, "b", func(s *settings) {
		s.before = func(n *nodes.Node) {
			_ = nodes.Serve(n, hSum, func(_ context.Context, req *sum) (total, error) {
				ran.Add(int32(req.A))
				return total{}, nil
			})
		}
	})
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	proxy.Stall(faultproxy.Both)
	ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
	defer cancel()
	if _, err := nodes.Call[sum, total](ctx, a.Node, hSum, sum{A: 1}, nodes.CallOptions{Node: "b"}); !errors.Is(err, cluster.ErrNoAnswer) {
		t.Errorf("of a node that stands still: %v", err)
	}
	time.Sleep(300 * time.Millisecond) // the clocks of the nodes know each other to a few ms
	proxy.Heal()
	eventually(t, "b answers again", func() bool {
		_, err := nodes.Call[sum, total](background, a.Node, hSum, sum{A: 100}, nodes.CallOptions{Node: "b"})
		return err == nil
	})
	if n := ran.Load(); n%100 != 0 {
		t.Errorf("%d: the call that nobody waited for has run", n)
	}
}
