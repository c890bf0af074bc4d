package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// hazards is how many there are.
const hazards = 38

// shown is a list of tests of one package in docs/hazards.md: `engine`: `TestA`, `TestB`.
var shown = regexp.MustCompile("`([a-z/]+)`: ((?:`(?:Test|Fuzz)[A-Za-z0-9_]+`(?:, )?)+)")

// Each hazard has its line, what is done about it, tests that are there, and a result.
func TestEveryHazardHasTestsThatAre(t *testing.T) {
	b, err := os.ReadFile("../../docs/hazards.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{} // test files of a package
	n, tests := 0, 0
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		row, err := strconv.Atoi(strings.TrimSpace(cells[0]))
		if err != nil {
			continue
		}
		if n++; row != n || len(cells) != 5 {
			t.Fatalf("row %d has number %d and %d cells, want 5", n, row, len(cells))
		}
		for i, what := range []string{"", "hazard", "what is done", "tests", "result"} {
			if i > 0 && len(strings.TrimSpace(cells[i])) < 3 {
				t.Errorf("row %d: no %s", n, what)
			}
		}
		lists := shown.FindAllStringSubmatch(cells[3], -1)
		if rest := strings.Trim(shown.ReplaceAllString(cells[3], ""), "; "); rest != "" || len(lists) == 0 {
			t.Errorf("row %d: %q is no list of tests", n, rest)
		}
		for _, list := range lists {
			pkg := list[1]
			if there[pkg] == "" {
				there[pkg] = testsOf(t, pkg)
			}
			for _, name := range regexp.MustCompile("(Test|Fuzz)[A-Za-z0-9_]+").FindAllString(list[2], -1) {
				tests++
				if !strings.Contains(there[pkg], "\nfunc "+name+"(") {
					t.Errorf("row %d: %s has no %s", n, pkg, name)
				}
			}
		}
	}
	if n != hazards || tests < 2*hazards {
		t.Errorf("%d hazards with %d tests, want %d", n, tests, hazards)
	}
}

// testsOf is the text of a package's test files.
func testsOf(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no tests: %v", pkg, err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
