package ts_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPackage checks, runs and packs the TypeScript client in a copy of its folder:
// against the real server, and with the vectors that the Go codec passes.
func TestPackage(t *testing.T) {
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Skip("no node here: ", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("node %s: the client asks for 20 or later", strings.TrimSpace(string(out)))
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("no npm here: ", err)
	}
	vectors, err := filepath.Abs("../../../codec/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server := filepath.Join(dir, "millrace")
	if out, err := exec.Command("go", "build", "-o", server, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("the server: %v\n%s", err, out)
	}
	work := filepath.Join(dir, "ts")
	for _, name := range []string{"src", "test"} {
		if err := os.CopyFS(filepath.Join(work, name), os.DirFS(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", "README.md"} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(work, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, line := range []string{"npm ci --no-audit --no-fund", "npm run check", "npm test", "npm pack --dry-run"} {
		args := strings.Fields(line)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "TEST_SERVER="+server, "TEST_VECTORS="+vectors)
		cmd.WaitDelay = time.Second
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		t.Logf("%s: %v", line, time.Since(start).Round(time.Millisecond))
		if line == "npm pack --dry-run" && (!strings.Contains(string(out), "dist/index.d.ts") || !strings.Contains(string(out), "dist/node.js")) {
			t.Fatalf("the package lacks its files:\n%s", out)
		}
	}
}
