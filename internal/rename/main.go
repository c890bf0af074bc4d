// Rename changes the module's path in every file that names it: imports, go.mod, also in nested
// modules, comments, documents, tests.
//
//	go run ./internal/rename example.com/millrace
//
// It replaces the path only when a slash and one of the module's folders follow it, so the
// command's name and metric names are not changed.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"millrace/internal/modpath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./internal/rename PATH")
		os.Exit(2)
	}
	n, err := rename(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rename:", err)
		os.Exit(1)
	}
	fmt.Printf("%d files now name the module %s\n", n, os.Args[1])
}

// rename renames the module in dir and returns how many files it has changed.
func rename(dir, to string) (changed int, err error) {
	if err := modpath.Check(to); err != nil {
		return 0, fmt.Errorf("PATH=%q: %w", to, err)
	}
	cmd := exec.Command("go", "mod", "edit", "-print")
	cmd.Dir = dir
	mod, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go mod edit -print: %w", err)
	}
	m := regexp.MustCompile(`(?m)^module "?([^"\s]+)`).FindSubmatch(mod)
	if m == nil {
		return 0, errors.New("go.mod: no module's path")
	}
	names, err := newNames(dir, string(m[1]), to)
	if err != nil {
		return 0, err
	}
	return changed, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		did, err := names.inFile(path)
		if did {
			changed++
		}
		return err
	})
}

// names finds and replaces the module's path.
type names struct {
	to    string
	inAny *regexp.Regexp // before one of the folders
	inMod *regexp.Regexp // by itself, in a go.mod
	inCmd *regexp.Regexp // by itself, in a go mod edit
}

func newNames(dir, from, to string) (*names, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			folders = append(folders, regexp.QuoteMeta(e.Name()))
		}
	}
	from = regexp.QuoteMeta(from)
	return &names{
		to:    to,
		inAny: regexp.MustCompile(`(^|[^A-Za-z0-9_./$@~-])` + from + `(/(?:` + strings.Join(folders, "|") + `)\b)`),
		inCmd: regexp.MustCompile(`(-(?:require|replace)[ =])` + from + `([@=])`),
		inMod: regexp.MustCompile(`(?m)(^\s*(?:module |require |replace )?)` + from + `( v| =>|$)`),
	}, nil
}

// inFile replaces it in a file of text.
func (n *names) inFile(path string) (changed bool, err error) {
	was, err := os.ReadFile(path)
	if err != nil || bytes.IndexByte(was, 0) >= 0 {
		return false, err
	}
	to := []byte("${1}" + n.to + "${2}")
	now := n.inCmd.ReplaceAll(n.inAny.ReplaceAll(was, to), to)
	if filepath.Base(path) == "go.mod" {
		now = n.inMod.ReplaceAll(now, to)
	}
	if bytes.Equal(was, now) {
		return false, nil
	}
	if filepath.Ext(path) == ".go" { // another path may change the order or alignment
		if formatted, err := format.Source(now); err == nil {
			now = formatted
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(path, now, info.Mode())
}
