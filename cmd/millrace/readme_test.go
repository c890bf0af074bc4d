package main

import (
	"regexp"
	"strings"
	"testing"
)

// The README's program is short.
func TestTheREADMEsHelloWorldIsShort(t *testing.T) {
	b := blocks(t, "README.md")
	if len(b) == 0 || b[0].kind != "server" {
		t.Fatal("the README does not begin with a server")
	}
	if n := strings.Count(b[0].code, "\n"); n > 15 {
		t.Errorf("%d lines, want 15 or fewer", n)
	}
}

// The README is one screen, and a picture.
func TestTheREADMEIsShort(t *testing.T) {
	if n := strings.Count(page(t, "README.md"), "\n"); n > 70 {
		t.Errorf("%d lines, want 70 or fewer: what is more goes to docs", n)
	}
}

// The calls of the reference server's page do what it says.
func TestTheReferencesCalls(t *testing.T) {
	s := serve(t)
	calls := regexp.MustCompile(`(?m)^    \./millrace call 127\.0\.0\.1:7000 ([0-9/]+) '?(.+?)'?$`).FindAllStringSubmatch(page(t, "docs/reference.md"), -1)
	if len(calls) < 2 {
		t.Fatalf("found %d calls", len(calls))
	}
	for _, c := range calls {
		out, stderr, code := millrace(t, nil, "", "call", s.ready[0], c[1], c[2])
		if code != 0 || !strings.HasPrefix(out, c[1]+" ") {
			t.Errorf("call %v: exit code %d, %q, %q", c[1:], code, out, stderr)
		}
	}
}
