package nodes_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/services"
	"millrace/services/nodes"
)

// A caller gets an error at once if NATS does not accept the answer, instead of waiting for it.
func TestAnAnswerTooLargeIsTold(t *testing.T) {
	url := servers(t)
	a, gate := start(t, url, "a"), start(t, url, "gate")
	err := nodes.Serve(a.Node, hOther, func(_ context.Context, n *int) (string, error) { return strings.Repeat("x", *n), nil })
	if err != nil {
		t.Fatal(err)
	}
	gate.knows("a=up gate=up")
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	for _, size := range []int{100, 2 << 20, 100} {
		got, err := nodes.Call[int, string](ctx, gate.Node, hOther, size, nodes.CallOptions{Node: "a"})
		var told *services.Error
		if large := size > 1<<20; large != errors.As(err, &told) || !large && (err != nil || len(got) != size) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}

// Where who is in a group is more than the servers take, how many these are is told.
func TestWhoIsInAGroupIsCutToSize(t *testing.T) {
	a := start(t, servers(t), "a")
	if _, err := a.Join(background, a.dial().s, "tea"); err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int]int{0: 0, 9: 0, 10: 10} {
		if count, got := a.Who("tea", most); count != 1 || got != want {
			t.Errorf("in %d bytes: %d members, %d bytes; want 1, %d", most, count, got, want)
		}
	}
}

// A node takes calls of any node while it is up, and none while it drains, whoever has said so last of those that say it
// together.
func TestStatesThatAreSetTogether(t *testing.T) {
	a := start(t, servers(t), "a", sums(t))
	for range 400 {
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() { a.SetState([]nodes.State{nodes.Up, nodes.Draining}[i%2]) })
		}
		all.Wait()
		if up, takes := a.List()[0].State == nodes.Up, a.TakesCalls(); up != takes {
			t.Fatalf("it is up: %v; it takes calls of any node: %v", up, takes)
		}
	}
}
