package enginetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is a fault that can be put into the module.
type mutant struct{ name, file, old, new string }

// mutants reads the list of them.
func mutants(t *testing.T) (list []mutant) {
	t.Helper()
	b, err := os.ReadFile("testdata/mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(b), "\n## ")[1:] {
		var m mutant
		rest := ""
		m.name, rest, _ = strings.Cut(part, "\n")
		file, rest, ok := strings.Cut(rest, "\n<<<\n")
		m.file = strings.TrimPrefix(file, "file ")
		old, put, both := strings.Cut(rest, "===\n")
		put, _, end := strings.Cut(put, ">>>")
		if !ok || !both || !end {
			t.Fatalf("mutants.txt: %q: want file, <<<, ===, >>>", m.name)
		}
		m.old, m.new = old, put
		list = append(list, m)
	}
	return list
}

// apply writes the file with the fault into dir and returns the overlay for the go command.
func (m mutant) apply(root, dir string) (overlay string, err error) {
	path := filepath.Join(root, m.file)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return "", fmt.Errorf("%q: what it replaces stands %d times in %s", m.name, n, m.file)
	}
	changed := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(b), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

var failedSeed = regexp.MustCompile(`enginetest: seed (\d+): (.*)`)

// Each mutant still fits the code: the text that it replaces occurs exactly once.
func TestMutantsFit(t *testing.T) {
	for _, m := range mutants(t) {
		if _, err := m.apply("../..", t.TempDir()); err != nil {
			t.Error(err)
		}
	}
}

// kits are the packages whose scenarios look for mutants, and what these are called.
func kits() (list []kit) {
	engine := kit{pkg: "millrace/engine/enginetest"}
	for _, s := range scenarios {
		engine.runs = append(engine.runs, hunter{s.name, "^TestSim$/^" + s.name + "$"})
	}
	return []kit{engine, {pkg: "millrace/services/servicestest", runs: []hunter{{"town", "^TestTown$"}, {"clocks", "^TestClocks$"}}}}
}

type (
	kit struct {
		pkg  string
		runs []hunter
	}
	hunter struct{ name, pattern string }
)

// kit is the one that a mutant is looked for with.
func (m mutant) kit() kit {
	if strings.HasPrefix(m.file, "engine/") {
		return kits()[0]
	}
	return kits()[1]
}

// With -long: the scenarios find each mutant within a number of seeds. -run TestMutants/NAME runs
// one of them.
func TestMutants(t *testing.T) {
	if !*long {
		t.Skip("builds the module once for each: use -long, or make mutants")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	list := mutants(t)
	found := 0
	for _, m := range list {
		t.Run(m.name, func(t *testing.T) {
			overlay, err := m.apply(root, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			bin := filepath.Join(t.TempDir(), "mutant.test")
			build := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", bin, m.kit().pkg)
			build.Dir = root
			if b, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", build, err, b)
			}
			if how := m.hunt(t, bin); how != "" {
				found++
				t.Logf("found: %s: %s", m.name, how)
			} else {
				t.Errorf("not found: %s", m.name)
			}
		})
	}
	t.Logf("%d of %d found", found, len(list))
}

// hunt runs the scenarios, more and more seeds of each, until one finds the mutant.
func (m mutant) hunt(t *testing.T, bin string) string {
	for _, seeds := range []string{"30", "1000"} {
		for _, s := range m.kit().runs {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			cmd := exec.CommandContext(ctx, bin, "-test.run", s.pattern)
			cmd.Env = append(os.Environ(), "ENGINETEST_SEEDS="+seeds, "ENGINETEST_NOSHRINK=1")
			b, err := cmd.CombinedOutput()
			timedOut := ctx.Err() != nil
			cancel()
			switch at := failedSeed.FindSubmatch(b); {
			case at != nil:
				return fmt.Sprintf("%s, seed %s: %.160s", s.name, at[1], at[2])
			case timedOut:
				return s.name + " does not end"
			case err != nil:
				return fmt.Sprintf("%s: %v: %.300s", s.name, err, firstPanic(b))
			}
		}
	}
	return ""
}

func firstPanic(b []byte) []byte {
	if i := bytes.Index(b, []byte("panic:")); i >= 0 {
		return b[i:]
	}
	return b
}
