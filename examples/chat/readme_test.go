package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands of the README do what it says.
func TestTheREADMEsCalls(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	millrace := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.Command("go", "build", "-o", millrace, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := settings{addr: "auto://127.0.0.1:0", history: filepath.Join(t.TempDir(), "h"), limits: limits{rooms: 4, lines: 50}}
	m, c, err := s.make()
	if err == nil {
		err = m.Start(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop(context.Background())
	addr := c.server.Addrs()[0].String()
	wants := []string{`1/5 {"rooms":[]}`, `1/2 {"seq":1}`, `"text":"hello"`, `"last":1,"lines":[]`, `"who":["listener"],"count":1`}
	calls := regexp.MustCompile(`(?m)^    \./millrace call (--listen )?(\S+) (\S+)(?: '(.+)')?$`).FindAllStringSubmatch(string(b), -1)
	if len(calls) != len(wants) {
		t.Fatalf("the README has %d calls, want %d", len(calls), len(wants))
	}
	for i, call := range calls {
		args := []string{"call", strings.Replace(call[2], "127.0.0.1:7100", addr, 1), call[3]} // an answer is enough, also to one that would listen
		if call[4] != "" {
			args = append(args, call[4])
		}
		out, err := exec.Command(millrace, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), wants[i]) {
			t.Errorf("%q: %v, %s; want %s", args, err, out, wants[i])
		}
	}
}
