package newcmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"millrace/internal/modpath"
)

// New is the command line of millrace new.
type New struct {
	Dir      string   `arg:"" complete:"DIR" help:"The folder to write the program to; it is created, or must be empty."`
	Module   string   `placeholder:"PATH" help:"The program's module path (example.com/ and the folder's name)."`
	With     []string `placeholder:"PART" enum:"services,db,cluster,web,admin" help:"Parts to add to the engine, comma-separated: services (typed handlers), db (PostgreSQL), cluster (several nodes), web (WebSocket and a page), admin (health, metrics and a live page for operators) (none)."`
	Vendor   bool     `help:"Copy Millrace and all other modules into the program (false: its go.mod refers to Millrace's folder on this machine)."`
	Millrace string   `placeholder:"DIR" help:"The folder of Millrace's source (the one that this program was built in, or one around the current folder)."`
}

// exitUsage is sysexits.h's EX_USAGE.
const exitUsage = 64

// failure is an error with an exit code.
type failure struct {
	code int
	text string
}

func (f *failure) Error() string { return f.text }

// ExitCode returns the exit code of the process.
func (f *failure) ExitCode() int { return f.code }

func usage(format string, args ...any) error {
	return &failure{exitUsage, fmt.Sprintf(format, args...)}
}

// program is the data of the templates.
type program struct {
	Name     string // of the binary
	Module   string
	Millrace string // the module's path
	Scheme   string // of the listen address

	Plain, DB, Cluster, Web, Admin, Vendor bool
	Data                                   bool // it has a folder named data
}

// Run writes the program.
func (c *New) Run(stdout io.Writer) error {
	p, err := c.program()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("go"); err != nil {
		return usage("go is not in the PATH: it is needed to compile the new program")
	}
	source, err := c.source(p.Millrace)
	if err != nil {
		return err
	}
	if err := c.makeDir(); err != nil {
		return err
	}
	if err := p.write(c.Dir); err != nil {
		return err
	}
	note, err := p.modules(c.Dir, source)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s is a server, as module %s%s\n\n    cd %s\n    go test .\n    go run .\n\n", c.Dir, p.Module, note, c.Dir)
	return nil
}

// program returns the template data for the flags.
func (c *New) program() (*program, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, usage("DIR %q: %v", c.Dir, err)
	}
	p := &program{Module: c.Module, Millrace: modulePath(), Scheme: "tcp", Vendor: c.Vendor}
	if p.Module == "" {
		p.Module = "example.com/" + filepath.Base(dir)
	}
	if err := modpath.Check(p.Module); err != nil && c.Module == "" {
		return nil, usage("DIR %q: a module can't have this name; give --module", c.Dir)
	} else if err != nil {
		return nil, usage("--module %q: %v", c.Module, err)
	}
	if p.Module == p.Millrace || strings.HasPrefix(p.Module, p.Millrace+"/") {
		return nil, usage("--module %q: this is Millrace's own module path; give another, such as example.com/game", p.Module)
	}
	p.Name = path.Base(p.Module)
	if regexp.MustCompile(`^v[0-9]+$`).MatchString(p.Name) && strings.Count(p.Module, "/") > 0 {
		p.Name = path.Base(path.Dir(p.Module))
	}
	p.Plain = len(c.With) == 0
	p.DB, p.Cluster, p.Web = slices.Contains(c.With, "db"), slices.Contains(c.With, "cluster"), slices.Contains(c.With, "web")
	p.Admin = slices.Contains(c.With, "admin")
	p.Data = p.DB || p.Cluster
	if p.Web {
		p.Scheme = "auto"
	}
	return p, nil
}

// makeDir creates the folder, or checks that it is empty.
func (c *New) makeDir() error {
	if c.Dir == "" {
		return usage("DIR %q: give the folder to write the program to", c.Dir)
	}
	entries, err := os.ReadDir(c.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return usage("DIR %q: %v", c.Dir, err)
		}
	case err != nil:
		return usage("DIR %q: %v", c.Dir, err)
	case len(entries) > 0:
		return usage("DIR %q: is not empty; give a new one", c.Dir)
	}
	return nil
}
