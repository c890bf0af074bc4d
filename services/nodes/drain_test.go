package nodes_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"millrace/services/nodes"
)

// When an operator drains the server, the node drains: the other nodes know, its rooms move, and calls
// to any node go to others. Undrain reverses all of this.
func TestADrainOfTheServerIsTakenBack(t *testing.T) {
	on := map[string]*counters{}
	all := together(t, servers(t), "a b", withCounters(t, on, true))
	gate := start(t, all[0].url, "gate", func(s *settings) { withCounters(t, on, true)(s) })
	a, b := all[0], all[1]
	for _, m := range all {
		m.knows("a=up b=up gate=up")
		if err := nodes.Serve(m.Node, hSum, func(context.Context, *sum) (total, error) { return total{Node: m.Name()}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	homes := func(round string) map[string]int {
		t.Helper()
		at := map[string]int{}
		for i := range 20 {
			got, err := on["gate"].add(background, fmt.Sprint(round, i), 1)
			if err != nil {
				t.Fatal(err)
			}
			at[got.Node]++
		}
		return at
	}
	if at := homes("first"); at["a"] == 0 {
		t.Fatalf("20 rooms: %v, want some on a", at)
	}
	at := time.Now()
	if err := a.srv.Drain(0, 0); err != nil {
		t.Fatal(err)
	}
	b.knows("a=draining b=up gate=up")
	if took := time.Since(at); took > 15*time.Second { // a sign of life comes every 20
		t.Errorf("that a drains was told after %v", took)
	}
	gate.knows("a=draining b=up gate=up")
	eventually(t, "a's rooms have gone", func() bool { return a.Stats().Rooms == 0 })
	if at := homes("second"); at["a"] != 0 {
		t.Errorf("20 rooms while a drains: %v", at)
	}
	for range 20 {
		if got, err := gate.call(nodes.CallOptions{}); err != nil || got.Node != "b" {
			t.Fatalf("of any node while a drains: %+v, %v", got, err)
		}
	}
	if err := a.srv.Undrain(); err != nil {
		t.Fatal(err)
	}
	b.knows("a=up b=up gate=up")
	gate.knows("a=up b=up gate=up")
	if at := homes("third"); at["a"] == 0 {
		t.Errorf("20 rooms when the drain was taken back: %v", at)
	}
	eventually(t, "a is called again", func() bool {
		got, err := gate.call(nodes.CallOptions{})
		return err == nil && got.Node == "a"
	})
}

// Rooms that have not moved yet stay after an undrain.
func TestADrainIsTakenBackHalfWay(t *testing.T) {
	const rooms = 60
	saving, release := make(chan struct{}, rooms), make(chan struct{})
	on := map[string]*nodes.Homes[int]{}
	a := start(t, servers(t), "a", func(s *settings) {
		s.before = func(n *nodes.Node) {
			h, err := nodes.NewHomes(n, nodes.HomesConfig[int]{
				Handle:  func(*nodes.Home[int], []byte) ([]byte, error) { return nil, nil },
				Save:    func(int) ([]byte, error) { saving <- struct{}{}; <-release; return nil, nil },
				Restore: func(*nodes.Home[int], []byte) (int, error) { return 0, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			on["a"] = h
		}
	})
	for i := range rooms {
		if _, err := on["a"].Ask(background, fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	b := start(t, a.url, "b", func(s *settings) {
		s.before = func(n *nodes.Node) {
			_, err := nodes.NewHomes(n, nodes.HomesConfig[int]{
				Handle:  func(*nodes.Home[int], []byte) ([]byte, error) { return nil, nil },
				Save:    func(int) ([]byte, error) { return nil, nil },
				Restore: func(*nodes.Home[int], []byte) (int, error) { return 0, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	var draining sync.WaitGroup
	draining.Go(func() { a.Drain(background) })
	<-saving
	a.SetState(nodes.Up)
	close(release)
	draining.Wait()
	time.Sleep(50 * time.Millisecond) // one that went on would go now
	if n := a.Stats().Rooms; n < rooms/2 {
		t.Errorf("%d of %d rooms are left, want most of them", n, rooms)
	}
}
