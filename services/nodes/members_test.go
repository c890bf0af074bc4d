package nodes_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// through is the URL of the servers behind a proxy.
func through(t testing.TB, servers string) (*faultproxy.Proxy, string) {
	t.Helper()
	u, err := url.Parse(servers)
	if err != nil {
		t.Fatal(err)
	}
	p := faultproxy.New(t, u.Host)
	u.Host = p.Addr()
	return p, u.String()
}

func TestNodesKnowWhoLivesAndHow(t *testing.T) {
	srv := servers(t)
	all := together(t, srv, "a b c")
	a, b, c := all[0], all[1], all[2]
	cl := b.dial()
	defer cl.Close()
	b.SetState(nodes.Draining)
	a.knows("a=up b=draining c=up")
	c.knows("a=up b=draining c=up")
	b.SetState(nodes.Up)
	a.knows("a=up b=up c=up")
	var seen nodes.Member
	for _, m := range a.List() {
		if m.Name == "b" {
			seen = m
		}
	}
	if seen.Sessions != 1 || seen.Self || seen.Token == 0 || seen.Process == a.ID(cl.s).Process {
		t.Errorf("a sees %+v, want one session and a process of its own", seen)
	}
	cl.Close()
	b.stop() // the name is free at once, whatever the lease
	a.knows("a=up c=up")
	again := start(t, srv, "b")
	a.knows("a=up b=up c=up")
	for _, m := range again.List() {
		if m.Name == "b" && (m.Token <= seen.Token || m.Process == seen.Process || !m.Self) {
			t.Errorf("the second b is %+v after %+v, want a higher token and another process", m, seen)
		}
	}
}

func TestANameHasOneLivingNode(t *testing.T) {
	srv := servers(t)
	start(t, srv, "a")
	if _, err := tryStart(t, srv, "a", func(s *settings) { s.NameWait = 100 * time.Millisecond }); !errors.Is(err, cluster.ErrName) {
		t.Errorf("a second a: got %v, want ErrName", err)
	}
}

func TestANodeThatIsCutOffIsOffTheListsAndComesBack(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a := start(t, srv, "a", lease(time.Second))
	b := start(t, cut, "b", lease(time.Second))
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	before := b.List()[1]
	proxy.Cut()
	b.knows("b=up") // at once: it knows that it reaches nobody
	a.knows("a=up")
	eventually(t, "b is no member", func() bool { return !b.Running() })
	proxy.Heal()
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	eventually(t, "b is a member", b.Running)
	if now := b.List()[1]; now.Process != before.Process || now.Token <= before.Token {
		t.Errorf("b came back as %+v after %+v, want the same process and a higher token", now, before)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, cfg := range []nodes.Config{{Name: "a b"}, {Name: "a.b"}, {Name: string(make([]byte, 65))}, {Addrs: []string{""}}, {Timeout: -1}, {MaxCalls: -1}, {MaxHops: 256}} {
		if _, err := nodes.New(cfg); err == nil {
			t.Errorf("%+v: want an error", cfg)
		}
	}
	n, err := nodes.New(nodes.Config{})
	if err != nil || !nodes.IsName(n.Name()) {
		t.Errorf("without a name: %v, %v", n, err)
	}
}

// Who lives is looked at by everything that is sent: it is not made anew for each.
func TestTheListOfOthersIsMadeWhenItChanges(t *testing.T) {
	srv := servers(t)
	all := together(t, srv, "a b c")
	a := all[0]
	if n := testing.AllocsPerRun(100, func() { a.Others() }); n > 1 { // one in between may be anew
		t.Errorf("the list of others: %v allocations, want 0", n)
	}
	for i := range 3 {
		d := start(t, srv, "d")
		a.knows("a=up b=up c=up d=up")
		if n := len(a.Others()); n != 3 {
			t.Errorf("round %d: %d others, want 3", i, n)
		}
		d.SetState(nodes.Draining)
		a.knows("a=up b=up c=up d=draining")
		d.stop()
		a.knows("a=up b=up c=up")
	}
}

// A node that can't be reached for a moment may take sessions over as soon as it can: a drain does not end
// them meanwhile.
func TestSessionsMayMoveToANodeThatIsCutOffForAMoment(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a := start(t, cut, "a") // its lease is a minute
	if a.MayGive() {
		t.Error("sessions of the only node may move")
	}
	b := start(t, srv, "b")
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	eventually(t, "a heartbeat of b's", func() bool { return a.Stats().Beats > 0 })
	proxy.Cut()
	a.knows("a=up")
	if !a.MayGive() {
		t.Error("no session may move, now that the other node can't be reached for a moment")
	}
	proxy.Heal()
	a.knows("a=up b=up")
}
