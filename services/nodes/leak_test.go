package nodes_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"millrace/services/nodes"
)

// Starts and stops leave no goroutine, subscription or key behind.
func TestStartsAndStopsLeaveNothing(t *testing.T) {
	rounds := 12
	if *long {
		rounds = 100
	}
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("no server")
	}
	url := "nats://" + srv.Addr().String()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	stay := start(t, url, "stay") // its watches see all
	var goroutines, subs int
	for i := range rounds {
		on := map[string]*counters{}
		m := start(t, url, "comes-and-goes", withCounters(t, on, true))
		m.knows("comes-and-goes=up stay=up")
		c := m.dial()
		m.bind(c, "ann")
		if _, err := m.Join(background, c.s, "tea"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.SendGroup(background, nil, "other", 1, 8, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := on["comes-and-goes"].add(background, "room", 1); err != nil {
			t.Fatal(err)
		}
		c.Close()
		m.stop()
		stay.knows("stay=up")
		if i == 1 {
			eventually(t, "the first rounds have ended", func() bool {
				goroutines, subs = runtime.NumGoroutine(), int(srv.NumSubscriptions())
				time.Sleep(50 * time.Millisecond)
				return goroutines == runtime.NumGoroutine() && subs == int(srv.NumSubscriptions())
			})
		}
	}
	eventually(t, "no more subscriptions than after the first rounds", func() bool { return int(srv.NumSubscriptions()) <= subs })
	eventually(t, "no more goroutines than after the first rounds", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	// What stands in the store goes with its marks.
	eventually(t, "no key but those of the node that stays", func() bool {
		left := 0
		for s := range js.StreamNames() {
			info, err := js.StreamInfo(s, &nats.StreamInfoRequest{SubjectsFilter: ">"})
			if err != nil {
				return false
			}
			for subject := range info.State.Subjects {
				m, err := js.GetLastMsg(s, subject)
				if err == nil && m.Header.Get("KV-Operation") == "" && len(m.Data) > 0 { // no mark of what was there
					left++
				}
			}
		}
		return left == 2 // its lease, and its name
	})
}

// A node without a server, a worker's, sends to the sessions of others.
func TestANodeWithoutAServer(t *testing.T) {
	url := servers(t)
	a := start(t, url, "a")
	w := start(t, url, "w", func(s *settings) { s.before = func(n *nodes.Node) { n.Attach(nil, nil) } })
	w.knows("a=up w=up")
	a.knows("a=up w=up")
	c := a.dial()
	if _, err := a.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	if sent, err := w.SendGroup(background, nil, "tea", 1, 8, []byte("1")); sent != 1 || err != nil {
		t.Errorf("got %d, %v", sent, err)
	}
	if err := w.Broadcast(nil, 1, 2, []byte("2")); err != nil {
		t.Error(err)
	}
	c.want("1/8 1", "1/2 2")
	if err := a.Broadcast(nil, 1, 2, []byte("3")); err != nil {
		t.Error(err)
	}
	c.want("1/2 3")
}
