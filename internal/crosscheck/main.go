// Crosscheck checks that all packages and their tests compile for other systems.
//
//	go run ./internal/crosscheck darwin/arm64 windows/386
//
// It checks their types from source, those of all they import included, and generates no code:
// that takes a twentieth of the time that a compiler needs for a system whose packages nobody has
// compiled yet.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	code := 0
	for _, target := range os.Args[1:] {
		fmt.Println("check", target)
		if err := check(".", target, "./..."); err != nil {
			fmt.Fprintf(os.Stderr, "crosscheck: %s: %v\n", target, err)
			code = 1
		}
	}
	os.Exit(code)
}

// listed is a package as go list prints it, each behind those that it imports.
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string // where what the source calls an import is another package
	DepOnly         bool
}

// check checks the packages in a directory that match patterns, for a target, OS/architecture.
func check(dir, target string, patterns ...string) error {
	system, arch, ok := strings.Cut(target, "/")
	sizes := types.SizesFor("gc", arch)
	if !ok || sizes == nil {
		return errors.New("want an operating system and an architecture, as in linux/arm")
	}
	list := exec.Command("go", append([]string{"list", "-deps", "-test", "-json=ImportPath,Dir,GoFiles,ImportMap,DepOnly"}, patterns...)...)
	list.Dir, list.Stderr = dir, os.Stderr
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	done := imported{"unsafe": types.Unsafe}
	var errs []error
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if p.ImportPath == "unsafe" {
			continue
		}
		errs = append(errs, done.add(p, sizes)...)
	}
	return errors.Join(errs...)
}

// imported has the packages that were checked, by path.
type imported map[string]*types.Package

// add checks a package: all of one that was asked for, of others what they declare.
func (done imported) add(p listed, sizes types.Sizes) (errs []error) {
	failed := func(err error) { errs = append(errs, err) }
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			failed(err)
			continue
		}
		files = append(files, f)
	}
	config := types.Config{
		Importer:         lookup{done, p.ImportMap},
		Sizes:            sizes,
		IgnoreFuncBodies: p.DepOnly,
		Error:            failed,
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // without "[of a test]"
	pkg, _ := config.Check(path, fset, files, nil)
	done[p.ImportPath] = pkg
	return errs
}

// lookup finds what one package imports.
type lookup struct {
	imported
	as map[string]string
}

func (l lookup) Import(path string) (*types.Package, error) {
	if as, ok := l.as[path]; ok {
		path = as
	}
	if p := l.imported[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no package %s", path)
}
