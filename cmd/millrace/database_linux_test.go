package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dbasync/pgembed"
)

// An embedded database that has ended by itself comes back, with its data; and no session
// takes all of it.
func TestAnEmbeddedDatabaseThatEndsIsStartedAgain(t *testing.T) {
	if _, err := pgembed.Find(); err != nil && os.Getenv("CI") == "" {
		t.Skipf("skipped: %v", err)
	}
	top := t.TempDir()
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil { // PostgreSQL runs as another user
		t.Fatal(err)
	}
	dir := filepath.Join(top, "db")
	s := serve(t, "--db=embedded", "--db-dir="+dir)
	c := s.dial()
	c.object(3, 1, `{"name":"bump","args":[7]}`)
	before := c.object(3, 1, `{"name":"world","args":[7]}`)["rows"].([]any)[0].([]any)[1]

	// Another server on its folder ends at once, and says whose it is.
	_, stderr, code := millrace(t, nil, "", "serve", "--addr=tcp://127.0.0.1:0", "--db=embedded", "--db-dir="+dir)
	if code != exitNoServer || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, dir) || !strings.Contains(stderr, "give another --db-dir") {
		t.Errorf("a second server on its folder: exit code %d, %q", code, stderr)
	}

	// One session's slow queries run for longer than anybody waits; another's is served.
	greedy := s.dial()
	for range 50 {
		greedy.send(3, 1, `{"name":"slow","args":[3600000]}`)
	}
	if rows := s.dial().object(3, 1, `{"name":"slow","args":[1]}`)["rows"].([]any); len(rows) != 1 {
		t.Errorf("a slow query beside them: got %v", rows)
	}
	greedy.Close()

	pid, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	n, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		c.send(3, 1, `{"name":"world","args":[7]}`)
		f := c.recv()
		if f.main == 3 {
			if now := c.parse(f)["rows"].([]any)[0].([]any)[1]; now != before {
				t.Errorf("row 7 is %v, was %v", now, before)
			}
			break
		}
		if code, _, ok := parseErrorFrame(f); !ok || code != 11 {
			t.Fatalf("while it is down: got %v, want ERROR 11", f)
		}
		if time.Now().After(deadline) {
			t.Fatal("still down")
		}
	}
	c.finish()
	s.stop()
}
