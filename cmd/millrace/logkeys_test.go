package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The keys of the log's attributes, some of which are names of flags, have no blanks, so that lines in text need no
// quotes and searches no care.
func TestTheLogsKeysAreWords(t *testing.T) {
	t.Parallel()
	seen := 0
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "node_modules" {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			first := slices.Index([]string{"With", "Debug", "Info", "Warn", "Error", "", "Log"}, sel.Sel.Name) // of the keys
			switch {
			case first < 0 || isPackage(f, sel.X, "http"):
				return true
			case first == 0, first == 6:
				first /= 2
			default:
				first = 1
			}
			for i := first; i+1 < len(call.Args); i += 2 {
				lit, ok := call.Args[i].(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					break // not a call of slog's, or of a prepared list
				}
				key, err := strconv.Unquote(lit.Value)
				if seen++; err != nil || strings.ContainsAny(key, " =\"") {
					t.Errorf("%s: the key %q", files.Position(lit.Pos()), key)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || seen < 100 {
		t.Errorf("%d keys, %v", seen, err)
	}
}

// isPackage reports whether an expression is the name of an imported package.
func isPackage(f *ast.File, x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name && slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return strings.HasSuffix(i.Path.Value, name+`"`) })
}
