// Package examples has programs in its folders; its test looks after all of them together.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each example has a README, a test, and a line in the index.
func TestEveryExampleIsWhole(t *testing.T) {
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == "migrate" {
			continue
		}
		name := d.Name()
		if !strings.Contains(string(index), "| [`"+name+"`]("+name+") |") {
			t.Errorf("%s has no line in the index", name)
		}
		if _, err := os.Stat(filepath.Join(name, "README.md")); err != nil {
			t.Errorf("%s has no README: %v", name, err)
		}
		if tests, _ := filepath.Glob(filepath.Join(name, "*_test.go")); len(tests) == 0 {
			t.Errorf("%s has no test", name)
		}
	}
}

// The programs of the pages on moving, and the facts of the comparison. They are a module of their own.
func TestWhatIsMovedFrom(t *testing.T) {
	if testing.Short() {
		t.Skip("builds other libraries' servers")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "./...") // what it reads of docs is not seen by the cache
	cmd.Dir = "migrate"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go test in examples/migrate: %v\n%s", err, out)
	}
}
