package nodes_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services/nodes"
)

// text is a presence in one line.
func text(p nodes.Presence) string {
	var all []string
	for _, s := range p.Sessions {
		all = append(all, s.Node+":"+strings.Join(s.Users, "+"))
	}
	return fmt.Sprintf("%d %v silent %v", p.Members, all, p.Silent)
}

// Who is in a group is said by the nodes that have members; those that don't answer are named.
func TestPresenceIsAskedOfTheNodes(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a, b := start(t, srv, "a"), start(t, srv, "b")
	c := start(t, cut, "c")
	for _, m := range []*member{a, b, c} {
		m.knows("a=up b=up c=up")
	}
	in := map[string]*client{}
	for _, x := range []struct {
		at    *member
		users []string
	}{{a, nil}, {a, []string{"ann"}}, {b, []string{"bob", "bea"}}, {c, []string{"cid"}}} {
		cl := x.at.dial()
		for _, user := range x.users {
			x.at.bind(cl, user)
			in[user] = cl
		}
		if _, err := x.at.Join(background, cl.s, "tea"); err != nil {
			t.Fatal(err)
		}
	}
	b.bind(b.dial(), "elsewhere") // is not in the group
	for _, m := range []*member{a, b, c} {
		p := m.Presence(background, "tea")
		if got := text(p); got != "4 [a: a:ann b:bea+bob c:cid] silent []" {
			t.Errorf("%s: %s", m.Name(), got)
		}
		if i := slices.IndexFunc(p.Sessions, func(s nodes.Present) bool { return slices.Contains(s.Users, "bob") }); i < 0 || p.Sessions[i].ID != b.ID(in["bob"].s) {
			t.Errorf("%s: bob's session is another: %+v", m.Name(), p.Sessions)
		}
		if got := text(m.Presence(background, "none")); got != "0 [] silent []" {
			t.Errorf("%s, of a group that nobody is in: %s", m.Name(), got)
		}
	}
	if _, err := b.Leave(in["bob"].s, "tea"); err != nil {
		t.Fatal(err)
	}
	if got := text(a.Presence(background, "tea")); got != "3 [a: a:ann c:cid] silent []" {
		t.Errorf("behind a leave: %s", got)
	}
	proxy.Stall(faultproxy.Both)
	ctx, cancel := context.WithTimeout(background, 500*time.Millisecond)
	defer cancel()
	if got := text(a.Presence(ctx, "tea")); got != "2 [a: a:ann] silent [c]" {
		t.Errorf("while c stands still: %s", got)
	}
	proxy.Heal()
	alone := start(t, "", "alone")
	cl := alone.dial()
	alone.bind(cl, "eve")
	if _, err := alone.Join(background, cl.s, "tea"); err != nil {
		t.Fatal(err)
	}
	if got := text(alone.Presence(background, "tea")); got != "1 [alone:eve] silent []" {
		t.Errorf("of a node alone: %s", got)
	}
}

// Whatever another node answers is read, or refused.
func FuzzPresence(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 3, 'a', 'n', 'n'})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0, 3, 'a', 'n', 'n'})
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := nodes.ParsePresent(b)
		size := 0
		for _, p := range all {
			size += 10
			for _, user := range p.Users {
				size += 2 + len(user)
			}
		}
		if err == nil && size != len(b) || err != nil && all != nil {
			t.Errorf("%d bytes are read as %d, %v", len(b), size, err)
		}
	})
}
