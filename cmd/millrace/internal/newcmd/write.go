package newcmd

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

//go:embed templates
var files embed.FS

var templates = template.Must(template.ParseFS(files, "templates/*.tmpl", "templates/schema/*"))

// files maps the program's files to their templates.
func (p *program) files() map[string]string {
	all := map[string]string{
		"main.go": "main.go.tmpl", "main_test.go": "main_test.go.tmpl", "README.md": "README.md.tmpl", ".gitignore": "gitignore.tmpl",
		"Makefile": "Makefile.tmpl", "Dockerfile": "Dockerfile.tmpl", p.Name + ".service": "unit.service.tmpl",
	}
	if p.Plain {
		all["server.go"] = "plain.go.tmpl"
		return all
	}
	all["app.go"], all["handlers.go"] = "app.go.tmpl", "handlers.go.tmpl"
	if p.DB {
		all["db.go"], all["schema/001_visits.sql"] = "db.go.tmpl", "001_visits.sql"
	}
	if p.Cluster {
		all["cluster.go"] = "cluster.go.tmpl"
	}
	if p.Web {
		all["web.go"], all["page.html"] = "web.go.tmpl", "page.html.tmpl"
	}
	if p.Admin {
		all["admin.go"] = "admin.go.tmpl"
	}
	return all
}

// write writes the files into dir.
func (p *program) write(dir string) error {
	for name, tmpl := range p.files() {
		var b bytes.Buffer
		if err := templates.ExecuteTemplate(&b, tmpl, p); err != nil {
			return err
		}
		text := b.Bytes()
		if strings.HasSuffix(name, ".go") {
			var err error
			if text, err = format.Source(text); err != nil {
				return fmt.Errorf("%s: %w", tmpl, err)
			}
		}
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// modules writes go.mod and go.sum. They require the same modules and versions as the source, so
// that the program builds from the module cache; then go mod tidy removes what the program does not
// need, if it works without the network. note is a remark for the user, or "".
func (p *program) modules(dir, source string) (note string, err error) {
	out, err := goCommand(source, nil, "mod", "edit", "-json")
	if err != nil {
		return "", err
	}
	var its struct {
		Go      string
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(out, &its); err != nil {
		return "", fmt.Errorf("go.mod of %s: %w", source, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire %s v0.0.0\n\nreplace %s => %s\n\nrequire (\n", p.Module, its.Go, p.Millrace, p.Millrace, quoted(source))
	for _, r := range its.Require {
		fmt.Fprintf(&b, "\t%s %s // indirect\n", r.Path, r.Version)
	}
	b.WriteString(")\n")
	mod, sum := filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")
	if err := os.WriteFile(mod, []byte(b.String()), 0o644); err != nil {
		return "", err
	}
	sums, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(sum, sums, 0o644); err != nil {
		return "", err
	}
	if _, err := goCommand(dir, []string{"GOPROXY=off"}, "mod", "tidy"); err != nil {
		note = "; go mod tidy shortens its go.mod, but needs the network" // it builds without tidy
	}
	if p.Vendor {
		_, err = goCommand(dir, nil, "mod", "vendor")
	}
	return note, err
}

// quoted returns a path as it is written in go.mod.
func quoted(path string) string {
	if strings.ContainsAny(path, " \t\"'`(),;[]{}\\") || strings.Contains(path, "//") {
		return strconv.Quote(path)
	}
	return path
}

// goCommand runs go in dir, outside any workspace, and returns what it prints.
func goCommand(dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), append([]string{"GOWORK=off", "GOFLAGS=-mod=mod"}, env...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s in %s: %w: %s", strings.Join(args, " "), dir, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
