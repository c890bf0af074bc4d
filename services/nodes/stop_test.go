package nodes_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// A node that stops answers the calls that run, and refuses those that come.
func TestStopWaitsForTheCallsOfOthers(t *testing.T) {
	entered, release := make(chan context.Context, 9), make(chan struct{})
	all := together(t, servers(t), "a b", func(s *settings) {
		s.Timeout = 30 * time.Second
		s.before = func(n *nodes.Node) {
			_ = nodes.Serve(n, hSum, func(ctx context.Context, req *sum) (total, error) {
				entered <- ctx
				switch req.A {
				case 1:
					<-release
				case 2:
					<-ctx.Done()
				}
				return total{Sum: req.A}, nil
			})
		}
	})
	a, b := all[0], all[1]
	type outcome struct {
		got total
		err error
	}
	call := func(n int) chan outcome {
		done := make(chan outcome, 1)
		go func() {
			got, err := nodes.Call[sum, total](background, a.Node, hSum, sum{A: n}, nodes.CallOptions{Node: "b"})
			done <- outcome{got, err}
		}()
		<-entered
		return done
	}
	first := call(1)
	stopped := make(chan error, 1)
	go func() { stopped <- b.Node.Stop(background) }()
	eventually(t, "a call that comes is refused", func() bool {
		select {
		case err := <-stopped:
			t.Fatal("it has stopped beside a call that runs:", err)
		default:
		}
		ctx, cancel := context.WithTimeout(background, 20*time.Second)
		defer cancel()
		_, err := nodes.Call[sum, total](ctx, a.Node, hSum, sum{}, nodes.CallOptions{Node: "b"})
		return errors.Is(err, cluster.ErrUnavailable)
	})
	close(release)
	if o := <-first; o.err != nil || o.got.Sum != 1 {
		t.Errorf("the call that ran: got %+v", o)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}

	// It waits no longer than it is given: first the calls' contexts end, then it does.
	for len(entered) > 0 {
		<-entered
	}
	if err := b.Node.Start(background); err != nil {
		t.Fatal(err)
	}
	a.knows("a=up b=up")
	second := call(2)
	ctx, cancel := context.WithTimeout(background, time.Second)
	defer cancel()
	if err := b.Node.Stop(ctx); err != nil {
		t.Error(err)
	}
	if o := <-second; o.err != nil || o.got.Sum != 2 {
		t.Errorf("the call that ended with its context: got %+v", o)
	}
}

func TestStopTellsOfCallsThatDoNotEnd(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	all := together(t, servers(t), "a b", func(s *settings) {
		s.Timeout = 500 * time.Millisecond
		s.before = func(n *nodes.Node) {
			_ = nodes.Serve(n, hSum, func(context.Context, *sum) (total, error) {
				close(entered)
				<-release
				return total{}, nil
			})
		}
	})
	lost := make(chan error, 1)
	go func() {
		_, err := all[0].call(nodes.CallOptions{Node: "b"})
		lost <- err
	}()
	<-entered
	ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
	defer cancel()
	if err := all[1].Node.Stop(ctx); err == nil || !strings.Contains(err.Error(), "1 calls") {
		t.Errorf("got %v, want an error that names one call", err)
	}
	close(release)
	if err := <-lost; err == nil {
		t.Error("its caller has an answer")
	}
}

// A node that stops while the servers are gone reports each user that it leaves bound once, however
// often its workers have tried to unbind it.
func TestStopCountsEachUserThatStaysBoundOnce(t *testing.T) {
	e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	a := start(t, e.URL(), "a")
	x := a.dial()
	a.bind(x, "ann")
	e.Stop()
	eventually(t, "the servers are gone", func() bool { return !a.cache.Running() })
	x.Close()
	<-time.After(time.Second) // the workers try every 100 ms
	ctx, cancel := context.WithTimeout(background, 20*time.Second)
	defer cancel()
	if err := a.Node.Stop(ctx); err == nil || !strings.Contains(err.Error(), "to closed sessions: 1") {
		t.Errorf("got %v, want an error that counts one user", err)
	}
}

// Why a message to a room was not taken is told by the right error, on the room's node and
// on others.
func TestWhyARoomTakesNoMessageIsTold(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	on := map[string]*nodes.Homes[int]{}
	all := together(t, servers(t), "a b", func(s *settings) {
		s.Timeout = 2 * time.Second
		s.before = func(n *nodes.Node) {
			h, err := nodes.NewHomes(n, nodes.HomesConfig[int]{MaxRooms: 1, MaxTasks: 1, Handle: func(_ *nodes.Home[int], body []byte) ([]byte, error) {
				if string(body) == "wait" {
					entered <- struct{}{}
					<-release
				}
				return nil, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			on[n.Name()] = h
		}
	})
	all[1].SetState(nodes.Draining) // so that all rooms are a's
	all[0].knows("a=up b=draining")
	ask := func(from *member, room, body string, want, wantNot error) {
		t.Helper()
		_, err := on[from.Name()].Ask(background, room, []byte(body))
		if !errors.Is(err, want) || errors.Is(err, wantNot) {
			t.Errorf("%s asks %s: got %v, want %v", from.Name(), room, err, want)
		}
	}
	waits := make(chan error, 2)
	for range 2 { // one runs, one waits
		go func() {
			_, err := on["a"].Ask(background, "one", []byte("wait"))
			waits <- err
		}()
	}
	<-entered
	eventually(t, "the room is full", func() bool {
		ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
		defer cancel()
		_, err := on["a"].Ask(ctx, "one", nil)
		return errors.Is(err, engine.ErrBusy)
	})
	for _, m := range all {
		ask(m, "one", "", cluster.ErrOverloaded, services.ErrTooManyRooms)
		ask(m, "two", "", cluster.ErrOverloaded, engine.ErrBusy)
		ask(m, "two", "", services.ErrTooManyRooms, cluster.ErrUnavailable)
	}
	close(release)
	<-waits
	<-waits
	if err := all[0].pool.Stop(background); err != nil {
		t.Fatal(err)
	}
	ask(all[0], "one", "", cluster.ErrUnavailable, cluster.ErrOverloaded)
	_ = all[0].Node.Stop(background) // its room can't end any more
	ask(all[0], "one", "", cluster.ErrUnavailable, cluster.ErrOverloaded)
	ask(all[0], "two", "", cluster.ErrUnavailable, cluster.ErrOverloaded)
}
