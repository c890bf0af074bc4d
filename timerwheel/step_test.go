package timerwheel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const libraryPath = "github.com/RussellLuo/timingwheel"

// TestClockSteps runs the tests of stepped_test.go in a build where the
// library reads a clock that they can step. The library calls time.Now itself,
// so it is copied, those calls are replaced, and the copy takes its place by a
// go.mod of its own. Nothing else in it is changed.
func TestClockSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	dir := t.TempDir()
	src := strings.TrimSpace(goTool(t, "list", "-m", "-f", "{{.Dir}}", libraryPath))
	lib := filepath.Join(dir, "lib")
	if err := os.CopyFS(lib, os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(lib, "timingwheel.go")
	text := read(t, name)
	if got := strings.Count(text, "time.Now()"); got != 4 {
		t.Fatalf("the library calls time.Now %d times, want 4", got)
	}
	write(t, name, strings.ReplaceAll(text, "time.Now()", "steppedNow()"))
	write(t, filepath.Join(lib, "stepped.go"), `package timingwheel

import (
	"sync/atomic"
	"time"
)

// Stepped is how far the wall clock has been stepped, ns.
var Stepped atomic.Int64

func steppedNow() time.Time { return time.Now().Add(time.Duration(Stepped.Load())) }
`)
	root := filepath.Dir(strings.TrimSpace(goTool(t, "env", "GOMOD")))
	mod := filepath.Join(dir, "step.mod")
	write(t, mod, read(t, filepath.Join(root, "go.mod"))+"\nreplace "+libraryPath+" => "+lib+"\n")
	write(t, filepath.Join(dir, "step.sum"), read(t, filepath.Join(root, "go.sum")))
	t.Log(goTool(t, "test", "-mod=mod", "-modfile="+mod, "-tags=steppedclock", "-count=1", "-timeout=3m", "-v", "-run=^TestStepped", "."))
}

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-trimpath") // as make build compiles
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, err)
	return string(text)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o700))
	os.Chmod(filepath.Dir(name), 0o700) // the module cache is read-only, and so is its copy
	os.Chmod(name, 0o600)
	must(t, os.WriteFile(name, []byte(text), 0o600))
}
