package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/dbasync/pgembed"
	"millrace/services"
	"millrace/services/client"
)

const patience = time.Minute

func start(t *testing.T) *services.Manager {
	t.Helper()
	m, err := serve(t.Context(), "tcp://127.0.0.1:0", pgembed.ForTest(t, pgembed.Config{}).URL())
	if err == nil {
		err = m.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func dial(t *testing.T, m *services.Manager) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{Addrs: m.TCP().URLs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Players send scores from many connections at once; the table, the answers and what a watcher is
// told last are those of a sorted list.
func TestTheBoardIsASortedList(t *testing.T) {
	m := start(t)
	watcher := dial(t, m)
	var mu sync.Mutex
	var seen standing // guarded by mu
	watcher.On(services.Handle(1, subBoard), func(p codec.Packet) {
		mu.Lock()
		defer mu.Unlock()
		seen = standing{}
		if err := json.Unmarshal(p.Body, &seen); err != nil {
			t.Error(err)
		}
	})
	if got, err := client.Call[services.None, standing](t.Context(), watcher, services.Handle(1, subWatch), services.None{}); err != nil || len(got.Rows) != 0 {
		t.Fatalf("an empty board is %v, %v", got, err)
	}

	best := map[string]int64{}
	var all []scoreRequest
	for _, points := range rand.Perm(300) { // all different, so that the order is certain
		r := scoreRequest{fmt.Sprintf("player %d", rand.IntN(40)), int64(points)}
		best[r.Player] = max(best[r.Player], r.Points)
		all = append(all, r)
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(all, 50) {
		c := dial(t, m)
		wg.Go(func() {
			for _, r := range part {
				got, err := client.Call[scoreRequest, scoreReply](t.Context(), c, services.Handle(1, subScore), r)
				if err != nil || got.Points < r.Points || got.Best != (got.Points == r.Points) {
					t.Errorf("%+v: got %+v, %v", r, got, err)
				}
			}
		})
	}
	wg.Wait()

	want := make([]row, 0, len(best))
	for player, points := range best {
		want = append(want, row{Player: player, Points: points})
	}
	slices.SortFunc(want, func(a, b row) int { return int(b.Points - a.Points) })
	for i := range want {
		want[i].Rank = int64(i + 1)
	}
	got, err := client.Call[topRequest, standing](t.Context(), watcher, services.Handle(1, subTop), topRequest{100})
	if err != nil || !slices.Equal(got.Rows, want) {
		t.Errorf("got %v, %v, want %v", got.Rows, err, want)
	}
	told := func(want []row) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			last := slices.Clone(seen.Rows)
			mu.Unlock()
			if slices.Equal(last, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the watcher was told %v last, want %v", last, want)
			}
		}
	}
	told(want[:topWatched])
	for round := range 20 { // the last of several changes at once is told, too
		first := []row{}
		var all sync.WaitGroup
		for i := range int64(topWatched) {
			r := scoreRequest{fmt.Sprint("late ", i), int64(round+1)*1000 - i}
			first = append(first, row{i + 1, r.Player, r.Points})
			all.Go(func() {
				if _, err := client.Call[scoreRequest, scoreReply](t.Context(), watcher, services.Handle(1, subScore), r); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		told(first)
	}
	if _, err := client.Call[topRequest, standing](t.Context(), watcher, services.Handle(1, subTop), topRequest{101}); err == nil {
		t.Error("a list of 101 is given")
	}
}
