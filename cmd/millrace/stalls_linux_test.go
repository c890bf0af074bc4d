package main

import (
	"strings"
	"testing"
	"time"
)

// A handler that was declared to block is no stall when it does, but one that was not is, and so is
// one that blocks for 50 times as long.
func TestADeclaredBlockerIsNoStall(t *testing.T) {
	const stall = "a callback blocks its goroutine"
	calls := func(s *process, ms string) {
		c := s.dial()
		c.send(1, 4, `{"ms":`+ms+`}`)
		if f := c.recv(); f.main != 1 || f.sub != 4 {
			t.Fatalf("got %v", f)
		}
		c.Close()
	}
	until := func(s *process, ms string) {
		t.Helper()
		for end := time.Now().Add(patience); !strings.Contains(s.log(), stall); {
			if time.Now().After(end) {
				t.Fatalf("no stall of %s ms in the log:\n%s", ms, s.log())
			}
			calls(s, ms)
		}
	}
	declared := serve(t, "--stall-after=40ms")
	for range 3 {
		calls(declared, "400")
	}
	if strings.Contains(declared.log(), stall) {
		t.Errorf("declared to block, and told as a stall:\n%s", declared.log())
	}
	until(declared, "3000")
	until(serve(t, "--stall-after=40ms", "--handle-dispatch=1/4=adaptive"), "400")
}
