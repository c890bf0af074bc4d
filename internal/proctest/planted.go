package proctest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Bug is a bug to insert into a file of the tested package: plausible but wrong code that replaces
// correct code, which must occur once.
type Bug struct {
	Name, File string
	Edits      []Edit
}

// Edit is one replacement.
type Edit struct{ Good, Bad string }

// Text returns the file with the bug. It fails the test if the correct code has changed: then the
// bug must be updated.
func (b Bug) Text(tb testing.TB) string {
	tb.Helper()
	file, err := os.ReadFile(b.File)
	if err != nil {
		tb.Fatal(err)
	}
	text := string(file)
	for _, e := range b.Edits {
		if n := strings.Count(text, e.Good); n != 1 {
			tb.Fatalf("%s: the code that the bug replaces occurs %d times, want once:\n%s", b.File, n, e.Good)
		}
		text = strings.Replace(text, e.Good, e.Bad, 1)
	}
	return text
}

// Run builds the package's tests with the bug in a copy of its file, runs them with args, and
// returns their output.
func (b Bug) Run(tb testing.TB, args ...string) string {
	tb.Helper()
	here, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	copied, overlay, binary := filepath.Join(dir, filepath.Base(b.File)), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "planted.test")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, b.File): copied}})
	if err != nil {
		tb.Fatal(err)
	}
	for name, text := range map[string][]byte{copied: []byte(b.Text(tb)), overlay: replace} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	out, _ := exec.Command(binary, args...).CombinedOutput() // it is expected to fail
	return string(out)
}

// Find plants each bug, runs the package's tests with args, and fails the test of a bug whose
// run prints no violation: a seed and what it found.
func Find(t *testing.T, bugs []Bug, violation *regexp.Regexp, args ...string) {
	for _, b := range bugs {
		t.Run(b.Name, func(t *testing.T) {
			log := b.Run(t, args...)
			found := violation.FindAllStringSubmatch(log, -1)
			if len(found) == 0 {
				t.Fatalf("found by none:\n%s", log)
			}
			t.Logf("found by %d", len(found))
			for _, f := range found {
				t.Logf("seed %s: %s", f[1], f[2])
			}
		})
	}
}
