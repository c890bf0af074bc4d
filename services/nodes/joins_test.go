package nodes_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/services/nodes"
)

// Each join is in force when its answer comes, also of a group that the node has been in a
// moment before, and that the others know to be empty since.
func TestAJoinBehindALeaveIsInForce(t *testing.T) {
	all := together(t, servers(t), "a b")
	a, b := all[0], all[1]
	c := a.dial()
	for round := range 50 {
		if _, err := a.Join(background, c.s, "tea"); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(round)
		if sent, err := b.SendGroup(background, nil, "tea", 1, 8, []byte(text)); sent != 1 || err != nil {
			t.Fatalf("round %d: sent %d, %v, want 1", round, sent, err)
		}
		if !c.sees("1/8 " + text) { // what hasNobody sent before the join may come first
			t.Fatalf("round %d: it has not come", round)
		}
		if left, err := a.Leave(c.s, "tea"); left != 0 || err != nil {
			t.Fatalf("leave: %d, %v", left, err)
		}
		b.hasNobody("tea")
	}
}

// The same while others of its node and of another join and leave the group too.
func TestJoinsAmongLeavesAreInForce(t *testing.T) {
	all := together(t, servers(t), "a b c")
	rounds := 100
	if *long {
		rounds = 5000
	}
	var joining sync.WaitGroup
	for _, m := range all[:2] {
		for i := range 4 {
			c := m.dial()
			joining.Go(func() {
				for round := range rounds {
					if _, err := m.Join(background, c.s, "tea"); err != nil {
						t.Error(err)
						return
					}
					text := fmt.Sprint(m.Name(), i, " ", round)
					if _, err := all[2].SendGroup(background, nil, "tea", 1, 8, []byte(text)); err != nil {
						t.Error(err)
						return
					}
					if !c.sees("1/8 " + text) {
						t.Errorf("%s, round %d: what was sent behind the join has not come", m.Name(), round)
						return
					}
					if _, err := m.Leave(c.s, "tea"); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	joining.Wait()
	for _, m := range all {
		m.hasNobody("tea")
	}
}

// What a node says of its members comes to others in the order in which it was true, however
// long one who has counted them takes to say it.
func TestAnOldCountIsNotToldBehindANewOne(t *testing.T) {
	var slow atomic.Bool
	counted := make(chan struct{})
	all := together(t, servers(t), "a b", func(s *settings) {
		s.before = func(n *nodes.Node) {
			n.Counting(func(count int) {
				if count == 0 && slow.CompareAndSwap(true, false) {
					close(counted)
					time.Sleep(300 * time.Millisecond) // the time that the other has to be faster
				}
			})
		}
	})
	a, b := all[0], all[1]
	c := a.dial()
	if _, err := a.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	if sent, err := b.SendGroup(background, nil, "tea", 1, 8, []byte("before")); sent != 1 || err != nil {
		t.Fatalf("sent %d, %v, want 1", sent, err)
	}
	c.want("1/8 before")
	slow.Store(true)
	var leaving sync.WaitGroup
	leaving.Go(func() { _, _ = a.Leave(c.s, "tea") })
	<-counted
	if _, err := a.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	leaving.Wait()
	for i := range 10 { // what was told last has come by then
		if _, err := b.SendGroup(background, nil, "tea", 1, 8, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		c.want(fmt.Sprint("1/8 ", i))
		time.Sleep(5 * time.Millisecond)
	}
}

// hasNobody waits until the node knows that a group is empty.
func (m *member) hasNobody(group string) {
	m.t.Helper()
	eventually(m.t, "nobody is known to be in "+group, func() bool {
		sent, err := m.SendGroup(background, nil, group, 1, 8, nil)
		return sent == 0 && err == nil
	})
}

// sees reads up to the frame; false: it does not come in time.
func (c *client) sees(want string) bool {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		p, err := c.r.Next()
		if err != nil {
			return false
		}
		if fmt.Sprintf("%d/%d %s", p.Main, p.Sub, p.Body) == want {
			return true
		}
	}
}

// A process that dies with members is forgotten: a group keeps nothing of processes that are
// no more, however many there have been.
func TestMembersOfTheDeadAreForgotten(t *testing.T) {
	srv := servers(t)
	a := start(t, srv, "a", lease(500*time.Millisecond))
	c := a.dial()
	if _, err := a.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	quick := func(s *settings) {
		s.lease, s.timeout, s.Timeout = 500*time.Millisecond, 200*time.Millisecond, time.Second
	}
	for i := range 3 {
		proxy, cut := through(t, srv)
		b := start(t, cut, fmt.Sprint("b", i), quick)
		a.knows(fmt.Sprintf("a=up b%d=up", i))
		eventually(t, "b knows a", func() bool { return len(b.List()) == 2 })
		member := b.dial()
		if _, err := b.Join(background, member.s, "tea"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a counts its member", func() bool { return a.Counted("tea") > 0 })
		proxy.Cut()
		member.Close()
		b.stop()
		a.knows("a=up")
	}
	eventually(t, "the dead are forgotten", func() bool { return a.Counted("tea") == 0 })
	eventually(t, "and that they are", func() bool { return a.Gone() == 0 })
	if sent, err := a.SendGroup(background, nil, "tea", 1, 8, []byte("1")); sent != 1 || err != nil {
		t.Errorf("sent %d, %v, want 1", sent, err)
	}
	c.want("1/8 1")
}

// One that was thought dead for so long that it was forgotten comes back with its members.
func TestMembersOfOneThatComesBackAreKnown(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a, b := start(t, srv, "a", lease(300*time.Millisecond)), start(t, cut, "b", lease(300*time.Millisecond))
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	c := b.dial()
	if _, err := b.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	if sent, err := a.SendGroup(background, nil, "tea", 1, 8, []byte("1")); sent != 1 || err != nil {
		t.Fatalf("sent %d, %v, want 1", sent, err)
	}
	c.want("1/8 1")
	proxy.Cut()
	eventually(t, "b is forgotten", func() bool { return a.Counted("tea") == 0 })
	proxy.Heal()
	a.knows("a=up b=up") // from now on it is in its group
	if sent, err := a.SendGroup(background, nil, "tea", 1, 8, []byte("2")); sent != 1 || err != nil {
		t.Errorf("sent %d, %v, want 1", sent, err)
	}
	c.want("1/8 2")
}
