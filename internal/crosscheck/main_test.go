package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What does not compile on a system is found there and only there, in a package, its tests, and
// the tests of its own package name; and what an int of 32 bits does not hold.
func TestCheckFindsWhatDoesNotCompile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":            "module m\n\ngo 1.24\n",
		"a.go":              "package m\n\nimport \"os\"\n\nvar A, _ = os.Getwd()\n",
		"a_darwin.go":       "package m\n\nfunc a() { undefinedHere() }\n",
		"a_test.go":         "package m\n\nimport \"testing\"\n\nfunc TestA(*testing.T) {}\n",
		"b_windows_test.go": "package m\n\nfunc b() int { return \"b\" }\n",
		"c_linux_test.go":   "package m_test\n\nimport \"m\"\n\nvar c int = m.A\n",
		"d/d.go":            "package d\n\nfunc D() int { return 1 << 40 }\n",
		"e/e_plan9.go":      "package e\n\nimport \"nowhere.example/at/all\"\n",
		"e/e.go":            "package e\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for target, want := range map[string]string{
		"freebsd/amd64": "",
		"darwin/arm64":  "a_darwin.go:3:12: undefined: undefinedHere",
		"windows/amd64": "b_windows_test.go:3:23: ",
		"linux/amd64":   "c_linux_test.go:5:13: ",
		"freebsd/386":   "d.go:3:23: ",
		"plan9/amd64":   "go list: ",
		"freebsd":       "want an operating system and an architecture",
		"freebsd/none":  "want an operating system and an architecture",
	} {
		err := check(dir, target, "./...")
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", target, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: found %v, want %q", target, err, want)
		}
	}
}
