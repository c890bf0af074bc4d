package nodes_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/services/cluster"
	"millrace/services/nodes"
)

// askThen waits for what AskThen tells.
func askThen[S any](ctx context.Context, h *nodes.Homes[S], key string, body []byte) (answer []byte, err error) {
	told := make(chan struct{})
	h.AskThen(ctx, key, body, func(got []byte, e error) {
		answer, err = got, e
		close(told) // again would be a panic
	})
	<-told
	return answer, err
}

// Behind messages that wait for their room stands no goroutine. Each has one outcome: those whose
// time is up get theirs then, and don't run any more.
func TestNobodyWaitsBehindAMessage(t *testing.T) {
	const waiting, short = 300, 100
	var homes *nodes.Homes[int]
	var ran atomic.Int32
	gate, inside := make(chan struct{}), make(chan struct{}, 1)
	start(t, "", "a", func(s *settings) {
		s.Timeout = patience
		s.before = func(n *nodes.Node) {
			var err error
			homes, err = nodes.NewHomes(n, nodes.HomesConfig[int]{Handle: func(_ *nodes.Home[int], body []byte) ([]byte, error) {
				if ran.Add(1) == 1 {
					inside <- struct{}{}
					<-gate
				}
				return body, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	outcomes := make(chan error, waiting+short+1)
	ask := func(ctx context.Context, n int) {
		for range n {
			homes.AskThen(ctx, "one", []byte("x"), func(got []byte, err error) {
				if err == nil && string(got) != "x" {
					err = errors.New("another's answer: " + string(got))
				}
				outcomes <- err
			})
		}
	}
	ask(background, 1)
	<-inside
	before := runtime.NumGoroutine()
	ask(background, waiting)
	if now := runtime.NumGoroutine(); now > before+20 {
		t.Errorf("%d goroutines behind %d messages, there were %d", now, waiting, before)
	}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	ask(ctx, short)
	for range short {
		if err := <-outcomes; !errors.Is(err, cluster.ErrNoAnswer) {
			t.Fatalf("a message whose time was up: %v, want ErrNoAnswer", err)
		}
	}
	close(gate)
	for range waiting + 1 {
		if err := <-outcomes; err != nil {
			t.Fatal(err)
		}
	}
	if _, err := homes.Ask(background, "one", nil); err != nil { // behind all of them
		t.Error(err)
	}
	if n := ran.Load(); n != waiting+2 || len(outcomes) != 0 {
		t.Errorf("%d ran, want %d; %d outcomes more than messages", n, waiting+2, len(outcomes))
	}
	if _, err := askThen(background, homes, strings.Repeat("k", 1000), nil); err == nil {
		t.Error("a key of 1,000 bytes was taken")
	}
	// A panic in what follows is contained: the room goes on.
	followed := make(chan struct{})
	homes.AskThen(background, "one", nil, func([]byte, error) {
		close(followed)
		panic("planned")
	})
	<-followed
	if _, err := askThen(background, homes, "one", nil); err != nil || ran.Load() != waiting+4 {
		t.Errorf("behind a panic: %v, %d ran", err, ran.Load())
	}
}
