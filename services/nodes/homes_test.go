package nodes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// counted is a counter's answer.
type counted struct {
	Value int
	Node  string
	Token uint64
}

// counters are rooms that count, on a node; each message notes in log who has run it.
type counters struct {
	*nodes.Homes[int]
	inside *atomic.Int32
}

// withCounters makes them on each node that is started.
func withCounters(t testing.TB, to map[string]*counters, saved bool) func(*settings) {
	inside := &atomic.Int32{}
	return func(s *settings) {
		s.before = func(n *nodes.Node) {
			cfg := nodes.HomesConfig[int]{Name: "counters", Handle: func(r *nodes.Home[int], body []byte) ([]byte, error) {
				if inside.Add(1) != 1 && r.Key() == "one" {
					t.Error("the room runs in two places, or twice in one")
				}
				defer inside.Add(-1)
				var add int
				if err := json.Unmarshal(body, &add); err != nil {
					return nil, services.Errorf(engine.CodeBadBody, "no number")
				}
				r.State += add
				return json.Marshal(counted{r.State, n.Name(), r.Token()})
			}}
			if saved {
				cfg.Save = func(v int) ([]byte, error) { return json.Marshal(v) }
				cfg.Restore = func(_ *nodes.Home[int], b []byte) (v int, err error) { return v, json.Unmarshal(b, &v) }
			}
			h, err := nodes.NewHomes(n, cfg)
			if err != nil {
				t.Fatal(err)
			}
			to[n.Name()] = &counters{h, inside}
		}
	}
}

// add asks in one way and in the other, in turn: what holds of one holds of both.
func (c *counters) add(ctx context.Context, room string, n int) (got counted, err error) {
	ask := c.Ask
	if callsMade.Add(1)%2 == 0 {
		ask = func(ctx context.Context, key string, body []byte) ([]byte, error) {
			return askThen(ctx, c.Homes, key, body)
		}
	}
	b, err := ask(ctx, room, fmt.Append(nil, n))
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	return got, err
}

func TestARoomHasOneHome(t *testing.T) {
	on := map[string]*counters{}
	all := together(t, servers(t), "a b c", withCounters(t, on, true))
	const each = 100
	var adding sync.WaitGroup
	var mu sync.Mutex
	values, homes := map[int]bool{}, map[string]bool{}
	for _, m := range all {
		adding.Go(func() {
			for range each {
				got, err := on[m.Name()].add(background, "one", 1)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if values[got.Value] {
					t.Errorf("%+v: the value came before", got)
				}
				values[got.Value] = true
				homes[fmt.Sprint(got.Node, got.Token)] = true
				mu.Unlock()
			}
		})
	}
	adding.Wait()
	if len(values) != 3*each || len(homes) != 1 {
		t.Fatalf("%d values, homes %v", len(values), homes)
	}
	spread := map[string]int{}
	for i := range 30 {
		got, err := on["a"].add(background, fmt.Sprint("room", i), 1)
		if err != nil || got.Value != 1 {
			t.Fatal(got, err)
		}
		spread[got.Node]++
	}
	if len(spread) != 3 {
		t.Errorf("30 rooms: %v, want some on each node", spread)
	}
	if _, err := on["a"].Ask(background, "one", []byte("x")); services.ErrorOf(err).Code != engine.CodeBadBody {
		t.Errorf("a bad message: %v", err)
	}
	// A drain moves the rooms with their state, and their tokens grow.
	was, err := on["a"].add(background, "one", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Name() == was.Node {
			ctx, cancel := context.WithTimeout(background, patience)
			defer cancel()
			m.Drain(ctx)
			if st := m.Stats(); st.Rooms != 0 {
				eventually(t, "the rooms have gone", func() bool { return m.Stats().Rooms == 0 })
			}
			got, err := on[m.Name()].add(background, "one", 1) // asked where it was
			if err != nil || got.Value != was.Value+1 || got.Node == was.Node || got.Token <= was.Token {
				t.Errorf("moved from %+v to %+v, %v", was, got, err)
			}
		}
	}
	for i := range 30 {
		if got, err := on["b"].add(background, fmt.Sprint("room", i), 1); err != nil || got.Value != 2 || got.Node == was.Node {
			t.Errorf("room%d is at %+v, %v", i, got, err)
		}
	}
}

// A home that is cut off works on while its lease runs, and stops before another begins.
func TestAHomeThatIsCutOffStopsBeforeTheNextBegins(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	on := map[string]*counters{}
	make := withCounters(t, on, true)
	const term = 2 * time.Second
	a := start(t, cut, "a", make, lease(term))
	first, err := on["a"].add(background, "one", 1) // alone: its home
	if err != nil || first.Node != "a" {
		t.Fatal(first, err)
	}
	b := start(t, srv, "b", make, lease(term))
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	if got, err := on["b"].add(background, "one", 1); err != nil || got != (counted{2, "a", first.Token}) {
		t.Fatal(got, err)
	}
	proxy.Cut()
	var last, next time.Time
	var both sync.WaitGroup
	both.Go(func() { // at the old home
		worked := 0
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			got, err := on["a"].add(background, "one", 1)
			if err != nil {
				if !errors.Is(err, cluster.ErrUnavailable) && !errors.Is(err, cluster.ErrLost) {
					t.Error(err)
				}
				break
			}
			if got.Node != "a" || got.Token != first.Token {
				t.Errorf("at the old home: %+v", got)
			}
			worked++
			last = time.Now()
		}
		if worked == 0 {
			t.Error("the home did not work on while its lease ran")
		}
	})
	both.Go(func() { // elsewhere
		for end := time.Now().Add(patience); time.Now().Before(end); {
			asked := time.Now()
			got, err := on["b"].add(background, "one", 1)
			if err == nil {
				if got.Node != "b" || got.Value != 1 || got.Token <= first.Token {
					t.Errorf("at the new home: %+v after %+v", got, first)
				}
				next = time.Now()
				return
			}
			if !errors.Is(err, cluster.ErrUnavailable) && !errors.Is(err, cluster.ErrNoAnswer) && !errors.Is(err, cluster.ErrLost) {
				t.Errorf("after %v: %v", time.Since(asked), err)
			}
		}
		t.Error("the room has no new home")
	})
	both.Wait()
	if last.After(next) {
		t.Errorf("the old home worked until %v behind the new one's first", last.Sub(next))
	}
	proxy.Heal()
	eventually(t, "the old home knows the new one", func() bool {
		got, err := on["a"].add(background, "one", 0)
		return err == nil && got.Node == "b"
	})
}

// What waits in a room when its lease ends does not run there any more.
func TestWhatWaitsInARoomDoesNotRunBehindItsLease(t *testing.T) {
	proxy, cut := through(t, servers(t))
	var homes *nodes.Homes[int]
	var ran atomic.Int32
	inside := make(chan struct{})
	start(t, cut, "a", lease(time.Second), func(s *settings) {
		s.Timeout = 30 * time.Second
		s.before = func(n *nodes.Node) {
			var err error
			homes, err = nodes.NewHomes(n, nodes.HomesConfig[int]{Handle: func(r *nodes.Home[int], _ []byte) ([]byte, error) {
				if ran.Add(1) == 1 {
					close(inside)
					for r.Held() {
						time.Sleep(5 * time.Millisecond)
					}
				}
				return nil, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := homes.Ask(background, "one", nil); !errors.Is(err, cluster.ErrLost) {
			t.Errorf("what ran while the lease ended: got %v, want ErrLost", err)
		}
	})
	<-inside
	all.Go(func() {
		if _, err := homes.Ask(background, "one", nil); !errors.Is(err, cluster.ErrUnavailable) {
			t.Errorf("what waited: got %v, want ErrUnavailable", err)
		}
	})
	time.Sleep(100 * time.Millisecond) // it waits by then, mostly
	proxy.Cut()
	all.Wait()
	if n := ran.Load(); n != 1 {
		t.Errorf("%d messages ran, want the first only", n)
	}
}

func TestRoomsOfANodeAlone(t *testing.T) {
	on := map[string]*counters{}
	start(t, "", "a", withCounters(t, on, false))
	var token uint64
	for i := range 10 {
		got, err := on["a"].add(background, "one", 2)
		if err != nil || got.Value != 2*(i+1) || token != 0 && got.Token != token || got.Token == 0 {
			t.Fatal(got, err)
		}
		token = got.Token
	}
}

// What a handler returns of a message of its own that another node has not taken is its
// error: it has run, and does not run again.
func TestAHandlersErrorIsNoOutcomeOfItsMessage(t *testing.T) {
	var ran atomic.Int32
	fail := func() error {
		ran.Add(1)
		return &services.Error{Code: engine.CodeUnavailable, Text: "what it asks is away", Err: cluster.ErrUnavailable}
	}
	var mu sync.Mutex
	on := map[string]*nodes.Homes[int]{}
	all := together(t, servers(t), "a b", func(s *settings) {
		s.before = func(n *nodes.Node) {
			h, err := nodes.NewHomes(n, nodes.HomesConfig[int]{Handle: func(*nodes.Home[int], []byte) ([]byte, error) { return nil, fail() }})
			if err == nil {
				err = nodes.Serve(n, hSum, func(context.Context, *sum) (total, error) { return total{}, fail() })
			}
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			on[n.Name()] = h
		}
	})
	wrong := func(err error) bool {
		e := services.ErrorOf(err)
		return errors.Is(err, cluster.ErrUnavailable) || e.Code != engine.CodeUnavailable || e.Text != "what it asks is away"
	}
	for _, m := range all {
		_, err := on[m.Name()].Ask(background, "one", nil)
		if n := ran.Swap(0); wrong(err) || n != 1 {
			t.Errorf("%s asks the room: it ran %d times, %v", m.Name(), n, err)
		}
		_, err = m.call(nodes.CallOptions{Node: "b"})
		if n := ran.Swap(0); wrong(err) || n != 1 {
			t.Errorf("%s calls b: it ran %d times, %v", m.Name(), n, err)
		}
	}
}

// A room that can't be opened holds up no drain.
func TestADrainDoesNotWaitForARoomThatFails(t *testing.T) {
	var homes *nodes.Homes[int]
	entered, release := make(chan struct{}), make(chan struct{})
	a := start(t, servers(t), "a", func(s *settings) {
		s.before = func(n *nodes.Node) {
			var err error
			homes, err = nodes.NewHomes(n, nodes.HomesConfig[int]{
				New: func(*nodes.Home[int]) (int, error) {
					close(entered)
					<-release
					return 0, services.Errorf(engine.CodeNotFound, "no such room")
				},
				Handle: func(*nodes.Home[int], []byte) ([]byte, error) { return nil, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := homes.Ask(background, "one", nil); services.ErrorOf(err).Code != engine.CodeNotFound {
			t.Errorf("got %v", err)
		}
	})
	<-entered
	ctx, cancel := context.WithTimeout(background, patience)
	defer cancel()
	all.Go(func() { a.Drain(ctx) })
	time.Sleep(50 * time.Millisecond) // its turn waits in the room by then, mostly
	close(release)
	all.Wait()
	if ctx.Err() != nil {
		t.Error("the drain has waited until its time was up")
	}
}
