package main

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var long = flag.Bool("long", false, "build and vet all packages of the renamed module")

const root = "../.."

// duplicate copies the module, without what is built, and returns its files.
func duplicate(t *testing.T, to string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		info, err := d.Info()
		if err != nil || !d.Type().IsRegular() || info.Size() > 4<<20 { // a binary
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all[rel] = b
		return os.WriteFile(filepath.Join(to, rel), b, info.Mode())
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOPROXY=off", "GOFLAGS=-buildvcs=false -trimpath")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%.4000s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// After make module every package and test finds what it imports, and nothing
// names the old path; and back again each file is what it was.
func TestARenamedModuleIsWhole(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs make")
	}
	dir := filepath.Join(t.TempDir(), "copy")
	was := duplicate(t, dir)
	old := strings.TrimSpace(command(t, dir, "go", "list", "-m"))
	const path = "example.com/some.team/mill"
	command(t, dir, "make", "module", "PATH="+path)
	if got := strings.TrimSpace(command(t, dir, "go", "list", "-m")); got != path {
		t.Fatalf("the module is %s, want %s", got, path)
	}
	for inside := range was {
		if filepath.Base(inside) != "go.mod" {
			continue
		}
		mod, err := os.ReadFile(filepath.Join(dir, inside))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mod)) {
			if f := strings.Fields(line); len(f) > 1 && (strings.HasPrefix(f[1], old) || f[0] == old) {
				t.Errorf("%s has the line %s", inside, line)
			}
		}
	}
	for _, e := range strings.Fields(command(t, dir, "go", "list", "-e", "-deps", "-test", "-f", "{{if .Error}}{{.ImportPath}} {{end}}", "./...")) {
		t.Errorf("%s can't be loaded", e)
	}
	for _, p := range strings.Fields(command(t, dir, "go", "list", "-deps", "-test", "./...")) {
		if p == old || strings.HasPrefix(p, old+"/") {
			t.Errorf("%s is still needed", p)
		}
	}
	if out := command(t, dir, "gofmt", "-l", "."); out != "" {
		t.Errorf("gofmt -w is due for\n%s", out)
	}
	command(t, dir, "go", "vet", "./codec", "./timerwheel", "./internal/...")
	if *long {
		command(t, dir, "go", "build", "./...")
		command(t, dir, "go", "vet", "./...")
	}
	if _, err := rename(dir, old); err != nil {
		t.Fatal(err)
	}
	for name, b := range was {
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(b, now) {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}
}

func TestAPathThatCannotBeChangesNothing(t *testing.T) {
	dir := t.TempDir()
	mod := filepath.Join(dir, "go.mod")
	if err := os.WriteFile(mod, []byte("module a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "a b", "../x", "/usr/bin:/bin"} {
		if _, err := rename(dir, path); err == nil || !strings.Contains(err.Error(), "PATH=") {
			t.Errorf("%q: got %v", path, err)
		}
	}
	if b, _ := os.ReadFile(mod); string(b) != "module a\n" {
		t.Errorf("go.mod is now %q", b)
	}
}

// What only looks like the path stays.
func TestOnlyNamesAreReplaced(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module mill\n\ngo 1.26\n")
	write("sub/go.mod", "module mill/sub\n\nrequire mill v0.0.0\n\nreplace mill => ..\n")
	write("cmd/mill/sub/a.go", "package a\n\nimport \"mill/sub\"\n")
	const text = "go doc mill/sub, mill/subway, ./mill/sub, cmd/mill/sub, x.org/mill/sub, mill_sub, \"mill/cmd/mill/sub\" mill/other mill\n" +
		"go mod edit -require mill@v0.0.0 -replace mill=../mill\n"
	write("README.md", text)
	write("image", "mill/sub\x00")
	if n, err := rename(dir, "example.com/$1/new"); err == nil {
		t.Errorf("%d files changed for a path with a dollar", n)
	}
	if _, err := rename(dir, "example.com/new"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"go.mod":            "module example.com/new\n\ngo 1.26\n",
		"sub/go.mod":        "module example.com/new/sub\n\nrequire example.com/new v0.0.0\n\nreplace example.com/new => ..\n",
		"cmd/mill/sub/a.go": "package a\n\nimport \"example.com/new/sub\"\n",
		"README.md":         strings.NewReplacer("doc mill/sub", "doc example.com/new/sub", `"mill/cmd`, `"example.com/new/cmd`, "mill@", "example.com/new@", "mill=", "example.com/new=").Replace(text),
		"image":             "mill/sub\x00",
	} {
		path := filepath.Join(dir, name)
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v, want %q", name, b, err, want)
		}
		if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o755 {
			t.Errorf("%s has another mode: %v, %v", name, info, err)
		}
	}
}
