package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/internal/proctest"
)

// A client in another language finds each path, code and figure of the operator's door as the
// contract has it.
func TestAnOperatorInPython(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		proctest.Missing(t, "no python3 here")
	}
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	for name, x := range map[string]struct {
		serve []string
		args  func(s *process) []string
	}{
		"all":     {[]string{"--admin-write", "--drain-to=elsewhere:7", "--loops=2"}, func(s *process) []string { return []string{port(s.ready[0]), port(s.door()), "2"} }},
		"reading": {nil, func(s *process) []string { return []string{"readonly", port(s.door())} }},
		"a token": {[]string{"--admin-write", "--admin-token-file=" + token}, func(s *process) []string { return []string{"token", port(s.door()), "s3cret"} }},
		"secrets": {[]string{"--db=postgres://app:hushDB@127.0.0.1:1/x", "--cluster=nats://hushNATS@127.0.0.1:1"},
			func(s *process) []string { return []string{"secrets", port(s.door()), "hushDB", "hushNATS"} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, append([]string{"--admin=127.0.0.1:0"}, x.serve...)...)
			out, err := exec.Command("python3", append([]string{"testdata/operator.py"}, x.args(s)...)...).CombinedOutput()
			if err != nil || string(out) != "ok\n" {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}
