package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
)

// A block is a piece of Go in a page. Behind ```go may stand
//
//	program  it is built and run, and its output is the ```text behind it
//	server   it is built and run, and answers 1/1 at 127.0.0.1:7000, in place of which
//	         the test gives it a free port
//
// A block without a package clause has the packages of goPackages imported. The
// declarations of one page are one package. Statements stand in a function whose
// parameters, and results behind "returns", are those of a comment in front:
//
//	<!-- with s *engine.Session returns error -->
type block struct {
	page, kind, with string
	line             int
	code, output     string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// goPackages are what blocks may use without an import of their own.
var goPackages = []string{
	"context", "errors", "fmt", "io", "log", "log/slog", "net", "net/http", "os", "os/signal", "sync", "syscall", "testing", "time", "embed", "encoding/binary", "encoding/json", "crypto/tls",
	"millrace/codec", "millrace/engine", "millrace/engine/enginetest", "millrace/timerwheel", "millrace/dbasync", "millrace/dbasync/pgembed", "millrace/dbasync/migrate",
	"millrace/services", "millrace/services/admin", "millrace/services/capture", "millrace/services/client", "millrace/services/cluster", "millrace/services/events", "millrace/services/nodes",
	"millrace/services/otel", "millrace/services/serial", "github.com/jackc/pgx/v5", "github.com/prometheus/client_golang/prometheus",
}

var (
	fence   = regexp.MustCompile("^```([a-z]*) ?([a-z]*)$")
	comment = regexp.MustCompile(`^<!-- with (.+) -->$`)
)

// blocks are those of Go in a page.
func blocks(t *testing.T, name string) (all []block) {
	t.Helper()
	var in *block
	var with, lang string
	var text []string
	for i, line := range strings.Split(page(t, name), "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case in == nil && m != nil:
			lang, in, text = m[1], &block{page: name, kind: m[2], with: with, line: i + 2}, nil
		case in != nil && line == "```":
			if in.code = strings.Join(text, "\n") + "\n"; lang == "go" {
				all = append(all, *in)
			} else if lang == "text" && len(all) > 0 && all[len(all)-1].kind == "program" {
				all[len(all)-1].output = in.code
			}
			in = nil
		case in != nil:
			text = append(text, line)
		}
		with = ""
		if m := comment.FindStringSubmatch(line); m != nil {
			with = m[1]
		}
	}
	if in != nil {
		t.Errorf("%s: the block of line %d has no end", name, in.line)
	}
	return all
}

// file is the block as a file of the given package.
func (b block) file(pkg string) string {
	if strings.HasPrefix(b.code, "package ") {
		return b.code
	}
	var head strings.Builder
	fmt.Fprintf(&head, "package %s\n", pkg)
	for _, p := range goPackages {
		name := path.Base(strings.TrimSuffix(p, "/v5"))
		if regexp.MustCompile(`(^|[^.\w"])`+name+`\.[A-Z]|go:`+name).MatchString(b.with+"\n"+b.code) && !strings.Contains(b.code, "\t\""+p+"\"\n") {
			fmt.Fprintf(&head, "import %q\n", p)
		}
	}
	decls := fmt.Sprintf("%s//line %s:%d\n%s", head.String(), filepath.Base(b.page), b.line, b.code)
	if _, err := parser.ParseFile(token.NewFileSet(), "", decls, parser.SkipObjectResolution); err == nil {
		return decls
	}
	params, results, _ := strings.Cut(b.with, " returns ")
	return fmt.Sprintf("%sfunc _(%s) (%s) {\n//line %s:%d\n%s}\n", head.String(), params, results, filepath.Base(b.page), b.line, b.code)
}

// Every piece of Go in README and docs compiles. That a variable is not used doesn't count
// in pieces of a page.
func TestTheDocsGoCompiles(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	imp := exports(t, fset)
	n := 0
	for _, name := range pages(t) {
		whole := map[string][]*ast.File{} // packages: the page's pieces, and each program by itself
		for _, b := range blocks(t, name) {
			pkg := "page"
			if n++; b.kind != "" || strings.HasPrefix(b.code, "package ") {
				pkg = b.String()
			}
			f, err := parser.ParseFile(fset, "", b.file("page"), parser.SkipObjectResolution)
			if err != nil {
				t.Errorf("%v: %v", b, err)
				continue
			}
			whole[pkg] = append(whole[pkg], f)
		}
		for _, files := range whole {
			conf := types.Config{Importer: imp, Error: func(err error) {
				if !strings.Contains(err.Error(), "declared and not used") && !strings.Contains(err.Error(), "imported and not used") {
					t.Errorf("docs: %s: %v", name, err)
				}
			}}
			conf.Check(name, fset, files, nil)
		}
	}
	if n < 20 {
		t.Errorf("%d pieces of Go, want 20 or more", n)
	}
}

// exports imports packages as the compiler has left them.
func exports(t *testing.T, fset *token.FileSet) types.Importer {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{if .Export}}{{.ImportPath}} {{.Export}}{{end}}"}, goPackages...)...).Output()
	if err != nil {
		t.Fatalf("go list -export: %v", err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if p, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			files[p] = file
		}
	}
	return importer.ForCompiler(fset, "gc", func(p string) (io.ReadCloser, error) { return os.Open(files[p]) })
}

// The programs of README and docs do what stands beside them.
func TestTheDocsProgramsRun(t *testing.T) {
	n := 0
	for _, name := range pages(t) {
		for _, b := range blocks(t, name) {
			if b.kind == "" {
				continue
			}
			n++
			t.Run(b.String(), func(t *testing.T) {
				t.Parallel()
				switch b.kind {
				case "program":
					out, err := b.build(t, "").CombinedOutput()
					if err != nil || !sameLines(string(out), b.output) || b.output == "" {
						t.Errorf("got %q, %v, want %q", out, err, b.output)
					}
				case "server":
					b.answers(t)
				default:
					t.Errorf("```go %s: there are program and server", b.kind)
				}
			})
		}
	}
	if n < 3 {
		t.Errorf("%d programs, want 3 or more", n)
	}
}

// build returns the command of the block's program, with addr in place of 127.0.0.1:7000.
func (b block) build(t *testing.T, addr string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	code := b.file("main")
	if addr != "" {
		code = strings.ReplaceAll(code, "127.0.0.1:7000", addr)
	}
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "program"), file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, filepath.Join(dir, "program"))
}

// answers runs the server until it answers an echo.
func (b block) answers(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := b.build(t, addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for end := time.Now().Add(patience); ; {
		out, stderr, code := millrace(t, nil, "", "call", addr, "1/1", "hello")
		if code == 0 && out == "1/1 hello\n" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("call: %d, %q, %q", code, out, stderr)
		}
	}
}

// sameLines: programs whose goroutines end as they like may say lines in any order.
func sameLines(a, b string) bool {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	sort.Strings(x)
	sort.Strings(y)
	return strings.Join(x, "\n") == strings.Join(y, "\n")
}
