package nodes_test

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"millrace/services/nodes"
)

// gap returns what the node is told of lost messages next.
func (m *member) gap() nodes.Gap {
	m.t.Helper()
	select {
	case g := <-m.gaps:
		return g
	case <-time.After(patience):
		m.t.Fatal("no gap is told")
		return nodes.Gap{}
	}
}

// A frame for a group that was lost at the end of what a node had to send to it is missed when that sends
// to the group again, though it had removed the group meanwhile.
func TestGapIsToldAcrossTheRemovalOfAGroup(t *testing.T) {
	url := servers(t)
	proxy, cut := through(t, url)
	a := start(t, cut, "a", func(s *settings) { s.GroupIdle = 200 * time.Millisecond })
	b := start(t, url, "b")
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	c := b.dial()
	if _, err := b.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	send := func(body string) {
		t.Helper()
		if _, err := a.SendGroup(background, nil, "tea", 1, 8, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	send("first")
	c.want("1/8 first")
	proxy.Cut()
	a.knows("a=up")
	send("lost")
	proxy.Heal()
	a.knows("a=up b=up")
	eventually(t, "a has removed the group", func() bool { return a.Stats().Groups == 0 })
	send("third")
	c.want("1/8 third")
	if got, want := b.gap(), (nodes.Gap{Node: "a", Stream: "group tea", Missed: 1}); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
}

// A message to a node that has lost its name for a moment is missed when the next one comes, though the
// sender has sent to many processes that have ended.
func TestGapIsToldAcrossTheLossOfAName(t *testing.T) {
	url := servers(t)
	proxy, cut := through(t, url)
	a, c := start(t, url, "a"), start(t, url, "c")
	b := start(t, cut, "b", lease(2*time.Second))
	for _, m := range []*member{a, b, c} {
		m.knows("a=up b=up c=up")
	}
	x, y, w := b.dial(), a.dial(), a.dial()
	b.bind(x, "ann")
	for i := range 60 {
		id := nodes.SessionID{Process: uint64(i + 1), Session: 1}
		raw, _ := hex.DecodeString(id.String())
		if ok, _, err := a.cache.Users().CompareAndSetRevision(background, fmt.Sprint(i), 0, raw, 0); !ok || err != nil {
			t.Fatal(ok, err)
		}
		a.bind(w, fmt.Sprint(i))
	}
	eventually(t, "sent", func() bool { return a.Send(b.ID(x.s), 7, 1, []byte("first")) == nil })
	x.want("7/1 first")
	proxy.Cut()
	eventually(t, "b has no name", func() bool {
		for _, m := range a.cache.Members() {
			if m.Name == "b" {
				return false
			}
		}
		return true
	})
	a.bind(y, "ann") // which b is not told
	beats := a.Stats().Beats
	for i := range 2 {
		c.SetState(nodes.Up) // a sign of life
		eventually(t, "a has seen it", func() bool { return a.Stats().Beats > beats+uint64(i) })
	}
	proxy.Heal()
	a.knows("a=up b=up c=up")
	z := b.dial()
	eventually(t, "sent", func() bool { return a.Send(b.ID(z.s), 7, 1, []byte("third")) == nil })
	z.want("7/1 third")
	for {
		got := b.gap()
		if got.Stream != "node" {
			continue // of broadcasts, while it was cut off
		}
		if want := (nodes.Gap{Node: "a", Stream: "node", Missed: 1}); got != want {
			t.Errorf("told %+v, want %+v", got, want)
		}
		return
	}
}
