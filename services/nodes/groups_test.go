package nodes_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"millrace/engine"
	"millrace/internal/faultproxy"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

func TestSendReachesASessionOfAnyNode(t *testing.T) {
	all := together(t, servers(t), "a b")
	a, b := all[0], all[1]
	x, y := b.dial(), b.dial()
	for i := range 100 {
		if err := a.Send(b.ID(x.s), 7, 1, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		x.want(fmt.Sprint("7/1 ", i))
	}
	y.nothing()
	if err := b.Send(b.ID(x.s), 7, 1, []byte("here")); err != nil {
		t.Fatal(err)
	}
	x.want("7/1 here")
	if id, err := nodes.ParseSessionID(b.ID(x.s).String()); id != b.ID(x.s) || err != nil {
		t.Errorf("read back as %v, %v", id, err)
	}
	// What is meant for a session that has gone reaches nobody, the next of its slot neither.
	old := b.ID(x.s)
	x.Close()
	eventually(t, "the session has gone", func() bool { return b.srv.Session(old.Session) == nil })
	var next *client
	eventually(t, "the slot is used again", func() bool {
		next = b.dial()
		return next.s.Index() == old.Session.Index()
	})
	if err := a.Send(old, 7, 1, []byte("late")); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(b.ID(next.s), 7, 1, []byte("behind")); err != nil {
		t.Fatal(err)
	}
	next.want("7/1 behind")
	if err := a.Send(nodes.SessionID{Process: 1, Session: old.Session}, 7, 1, nil); err != cluster.ErrUnavailable {
		t.Errorf("to a process that never was: got %v", err)
	}
}

func TestBroadcastReachesEverySession(t *testing.T) {
	all := together(t, servers(t), "a b c")
	var clients []*client
	for _, m := range all {
		clients = append(clients, m.dial(), m.dial())
	}
	for i := range 50 {
		if err := all[i%3].Broadcast(nil, 1, 2, fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range clients {
		last := [3]int{-1, -1, -1}
		for range 50 {
			var n int
			if _, err := fmt.Sscanf(c.next(), "1/2 %d", &n); err != nil || n <= last[n%3] {
				t.Fatalf("%d after %v, %v: out of order or twice", n, last, err)
			}
			last[n%3] = n
		}
	}
}

// A send that begins after a join was answered reaches the new member: of a group that the sending
// node did not know, and of one that it has just found to be empty.
func TestAJoinIsInForceWhenItsAnswerComes(t *testing.T) {
	all := together(t, servers(t), "a b")
	a, b := all[0], all[1]
	c := a.dial()
	for i := range 100 {
		group := fmt.Sprint("g", i)
		if i%2 == 1 {
			if sent, err := b.SendGroup(background, nil, group, 1, 8, []byte("nobody")); sent != 0 || err != nil {
				t.Fatalf("to an empty group: %d, %v", sent, err)
			}
		}
		if n, err := a.Join(background, c.s, group); n != 1 || err != nil {
			t.Fatalf("join: %d, %v", n, err)
		}
		if sent, err := b.SendGroup(background, nil, group, 1, 8, fmt.Append(nil, i)); sent != 1 || err != nil {
			t.Fatalf("round %d: sent %d, %v, want 1", i, sent, err)
		}
		c.want(fmt.Sprint("1/8 ", i))
		if left, err := a.Leave(c.s, group); left != 0 || err != nil {
			t.Fatalf("leave: %d, %v", left, err)
		}
	}
}

func TestMembersAreCountedOverAllNodes(t *testing.T) {
	all := together(t, servers(t), "a b c")
	n := 0
	var clients []*client
	for round := range 3 {
		for _, m := range all {
			c := m.dial()
			clients = append(clients, c)
			n++
			if round == 0 { // the first members of a node: all others are asked
				if got, err := m.Join(background, c.s, "tea"); got != n || err != nil {
					t.Fatalf("join %d: got %d, %v", n, got, err)
				}
				continue
			}
			if _, err := m.Join(background, c.s, "tea"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, m := range all {
		eventually(t, "9 members", func() bool {
			sent, err := m.SendGroup(background, nil, "tea", 1, 8, nil)
			return sent == 9 && err == nil
		})
	}
	clients[0].Close() // a member that goes is one less everywhere
	clients[1].Close()
	for _, m := range all {
		eventually(t, "7 members", func() bool {
			sent, err := m.SendGroup(background, nil, "tea", 1, 8, nil)
			return sent == 7 && err == nil
		})
	}
}

// Many senders and members on all nodes: each member receives each sender's frames once and in
// order.
func TestGroupFramesComeOnceAndInOrder(t *testing.T) {
	each := 300
	if *long {
		each = 5000
	}
	all := together(t, servers(t), "a b c", func(s *settings) { s.MaxInbound = 6 * each }) // nobody waits for the slowest
	var clients []*client
	for _, m := range all {
		for range 3 {
			c := m.dial()
			clients = append(clients, c)
			if _, err := m.Join(background, c.s, "tea"); err != nil {
				t.Fatal(err)
			}
		}
	}
	var sending sync.WaitGroup
	for k, m := range all {
		for g := range 2 {
			sending.Go(func() {
				for i := range each {
					for {
						_, err := m.SendGroup(background, nil, "tea", 1, 8, fmt.Appendf(nil, "%d %d", 2*k+g, i))
						if err == nil {
							break
						}
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
	}
	var reading sync.WaitGroup
	for _, c := range clients {
		reading.Go(func() {
			next := map[int]int{}
			for range 6 * each {
				text := c.next()
				var from, i int
				if _, err := fmt.Sscanf(text, "1/8 %d %d", &from, &i); err != nil || i != next[from] {
					t.Errorf("got %q of sender %d, want %d", text, from, next[from])
					return
				}
				next[from] = i + 1
			}
		})
	}
	sending.Wait()
	reading.Wait()
	for _, m := range all {
		if st := m.Stats(); st.Missed+st.Doubled+st.Shed+st.Unsent > 0 {
			t.Errorf("%s: %+v", m.Name(), st)
		}
	}
}

func TestWhatAnEarlierCutHasSwallowedIsTold(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a, b := start(t, srv, "a"), start(t, cut, "b")
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	c := b.dial()
	if _, err := b.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	send := func(text string) {
		t.Helper()
		if err := a.Broadcast(nil, 1, 2, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.SendGroup(background, nil, "tea", 1, 8, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send("before")
	c.want("1/2 before", "1/8 before")
	if sent, err := a.SendGroup(background, nil, "new", 1, 8, nil); sent != 0 || err != nil {
		t.Fatalf("to an empty group: %d, %v", sent, err) // a knows now that nobody is there
	}
	proxy.Cut()
	b.knows("b=up")
	for range 5 {
		send("lost")
	}
	// What is this node's own goes on.
	if sent, err := b.SendGroup(background, nil, "tea", 1, 8, []byte("here")); sent != 1 || err != nil {
		t.Errorf("a group send while cut off: %d, %v", sent, err)
	}
	c.want("1/8 here")
	late := b.dial()
	if n, err := b.Join(background, late.s, "new"); n != 1 || err != nil {
		t.Errorf("a join while cut off: %d, %v", n, err)
	}
	if err := b.Send(a.ID(late.s), 1, 1, nil); err == nil {
		t.Error("a send to another node while cut off was taken")
	}
	proxy.Heal()
	b.knows("a=up b=up")
	send("after")
	c.want("1/2 after", "1/8 after")
	missed := map[string]uint64{}
	eventually(t, "the losses are told", func() bool {
		select {
		case g := <-b.gaps:
			missed[g.Stream] += g.Missed
		default:
		}
		return missed["all"] == 5 && missed["group tea"] == 5
	})
	// The join is in force elsewhere, also where the group was thought to be empty.
	eventually(t, "the join that was made while cut off is known", func() bool {
		sent, err := a.SendGroup(background, nil, "new", 1, 8, []byte("hello"))
		return sent == 1 && err == nil
	})
	late.want("1/2 after", "1/8 hello")
}

// A group that a node has found to be empty may have got members while the node was cut off.
func TestAJoinElsewhereIsKnownAfterACut(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a, b := start(t, cut, "a"), start(t, srv, "b", func(s *settings) { s.Timeout = 200 * time.Millisecond })
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	if sent, err := a.SendGroup(background, nil, "tea", 1, 8, nil); sent != 0 || err != nil {
		t.Fatalf("to an empty group: %d, %v", sent, err)
	}
	proxy.Cut()
	a.knows("a=up")
	c := b.dial()
	if n, err := b.Join(background, c.s, "tea"); n != 1 || err != nil {
		t.Fatalf("join: %d, %v", n, err)
	}
	proxy.Heal()
	a.knows("a=up b=up")
	if sent, err := a.SendGroup(background, nil, "tea", 1, 8, []byte("hello")); sent != 1 || err != nil {
		t.Errorf("sent %d, %v, want 1", sent, err)
	}
	c.want("1/8 hello")
}

// While servers that are there take nothing, a write to them waits, and a join of a new group
// with it. What this node sends to its own does not.
func TestWhatIsSentHereDoesNotWaitForTheServers(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a, b := start(t, cut, "a", func(s *settings) { s.timeout = 5 * time.Minute }), start(t, srv, "b")
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	c, other, far := a.dial(), a.dial(), b.dial()
	for _, x := range []struct {
		m *member
		c *client
	}{{b, far}, {a, c}} {
		if _, err := x.m.Join(background, x.c.s, "tea"); err != nil {
			t.Fatal(err)
		}
	}
	body := make([]byte, 1000<<10)
	a.clog(proxy, 64, func() error { return a.Send(b.ID(far.s), 1, 1, body) })
	var wait sync.WaitGroup
	wait.Go(func() { _, _ = a.Join(background, other.s, "new") })
	wait.Go(func() { _, _ = a.SendGroup(background, nil, "new", 1, 8, nil) })
	sent := make(chan error, 1)
	go func() {
		var err error
		for range 50 {
			time.Sleep(5 * time.Millisecond) // so that those two have come to where they wait
			_, e := a.SendGroup(background, nil, "tea", 1, 8, []byte("here"))
			err = errors.Join(err, e)
		}
		sent <- err
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
		for range 50 {
			c.want("1/8 here")
		}
	case <-time.After(patience):
		t.Error("it waits")
	}
	proxy.Heal()
	wait.Wait()
}

// clog stalls the proxy and sends until a write of the bus waits: n messages are more than the
// sockets in between hold. Who takes some seconds for it has lost the connection, whose PINGs are
// not answered either, and does it again.
func (m *member) clog(proxy *faultproxy.Proxy, n int, send func() error) {
	m.t.Helper()
	m.t.Cleanup(proxy.Heal)
	eventually(m.t, "a write waits", func() bool {
		proxy.Heal()
		eventually(m.t, "the bus is up", func() bool { return m.Stats().Bus.Up })
		proxy.Stall(faultproxy.Both)
		for range n {
			if err := send(); err != nil && !errors.Is(err, cluster.ErrUnavailable) {
				m.t.Fatal(err)
			}
		}
		for was, since := m.Stats().Bus, time.Now(); time.Since(since) < 300*time.Millisecond; time.Sleep(10 * time.Millisecond) {
			now := m.Stats().Bus
			if !now.Up {
				return false
			}
			if now != was || now.Outbound == 0 {
				was, since = now, time.Now()
			}
		}
		return true
	})
}

// A node forgets a group that is not used for a while; one that is used again works as before.
func TestAGroupThatIsLetGoWorksAgain(t *testing.T) {
	all := together(t, servers(t), "a b", func(s *settings) { s.GroupIdle = 20 * time.Millisecond })
	a, b := all[0], all[1]
	c := a.dial()
	for i := range 30 {
		if n, err := a.Join(background, c.s, "tea"); n != 1 || err != nil {
			t.Fatalf("join: %d, %v", n, err)
		}
		eventually(t, "the member is known", func() bool {
			sent, err := b.SendGroup(background, nil, "tea", 1, 8, fmt.Append(nil, i))
			return sent == 1 && err == nil
		})
		for want := fmt.Sprint("1/8 ", i); c.next() != want; {
		}
		if _, err := a.Leave(c.s, "tea"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(15+i) * time.Millisecond) // about when it is let go
	}
	for _, m := range all {
		eventually(t, "no group is known any more", func() bool { return m.Stats().Groups == 0 })
	}
}

// A node alone does all this without servers.
func TestANodeAlone(t *testing.T) {
	a := start(t, "", "a")
	c := a.dial()
	if n, err := a.Join(background, c.s, "tea"); n != 1 || err != nil {
		t.Errorf("join: %d, %v", n, err)
	}
	if sent, err := a.SendGroup(background, nil, "tea", 1, 8, []byte("x")); sent != 1 || err != nil {
		t.Errorf("send: %d, %v", sent, err)
	}
	if err := a.Broadcast(nil, 1, 2, []byte("y")); err != nil {
		t.Error(err)
	}
	c.want("1/8 x", "1/2 y")
	if !a.Running() || a.names() != "a=up" {
		t.Errorf("running %v, nodes %s", a.Running(), a.names())
	}
	if err := a.Send(nodes.SessionID{Process: a.ID(c.s).Process, Session: 7}, 1, 1, nil); err != engine.ErrClosed {
		t.Errorf("to a session that is not there: %v", err)
	}
}
