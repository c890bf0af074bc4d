package main

import "testing"

// A client whose connections break before it has heard of its next token goes to and fro with
// the one that it has, and its session with it: what a node remembers of where a session went
// does not count when it has come back.
func TestSessionComesBackToANodeThatGaveIt(t *testing.T) {
	t.Parallel()
	dir, _ := natsServer(t)
	a, b, c := moveNode(t, "embedded", dir, "a"), moveNode(t, "embedded", dir, "b"), moveNode(t, "embedded", dir, "c")
	for _, p := range []*process{a, b, c} {
		p.dial().knows("a=up b=up c=up")
	}
	x := a.dial()
	token, _ := x.hello("", 0)
	x.ask(6, 3, `{"user":"ann"}`)
	x.Close()
	for i, p := range []*process{b, a, b, a, c, b, c, a} {
		y := p.dial()
		if _, resumed := y.hello(token, 1); !resumed {
			t.Fatalf("move %d: a new session", i)
		}
		y.Close()
	}
}
