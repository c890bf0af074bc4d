// Licences lists the modules that this one is built and tested with, each with its version, licence
// and purpose, in the form of docs/licences.md.
//
//	go run ./internal/licences -w docs/licences.md
//
// It reads the LICENSE files in the module cache, and fails for a licence that it doesn't know or
// that isn't allowed.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	out := flag.String("w", "", "write there, not to stdout")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	mods, err := modules(".")
	if err != nil {
		return err
	}
	text, err := page(mods)
	if err != nil {
		return err
	}
	if out == "" {
		_, err = os.Stdout.Write(text)
		return err
	}
	return os.WriteFile(out, text, 0o644)
}

// module is a module required by go.mod.
type module struct {
	Path, Version, Dir string

	licences []string // SPDX identifiers
	unknown  string   // a file with an unknown licence
	notice   bool     // it has a NOTICE file, which must accompany copies
	use      string
}

// What a module is for.
const (
	inCommand  = "command"  // linked into millrace
	inPackages = "packages" // linked by importers of some packages
	inTests    = "tests"    // and tools; not part of any build
)

// allowed maps the allowed licences to the permitted purposes: MPL requires publishing modified
// source, which does not matter for modules used only in tests.
var allowed = map[string][]string{
	"Apache-2.0":   {inCommand, inPackages, inTests},
	"MIT":          {inCommand, inPackages, inTests},
	"ISC":          {inCommand, inPackages, inTests},
	"BSD-2-Clause": {inCommand, inPackages, inTests},
	"BSD-3-Clause": {inCommand, inPackages, inTests},
	"MPL-2.0":      {inTests},
}

// modules are those that the go.mod of dir requires, ascending.
func modules(dir string) ([]*module, error) {
	mod, err := command(dir, "mod", "edit", "-json")
	if err != nil {
		return nil, err
	}
	var file struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(mod, &file); err != nil {
		return nil, fmt.Errorf("go.mod: %w", err)
	}
	var paths []string
	for _, r := range file.Require {
		paths = append(paths, r.Path)
	}
	list, err := inCache(dir, paths)
	if err != nil {
		return nil, err
	}
	uses, err := uses(dir)
	if err != nil {
		return nil, err
	}
	var all []*module
	for _, m := range list {
		m.use = inTests
		if u, ok := uses[m.Path]; ok {
			m.use = u
		}
		if err := m.read(); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *module) int { return strings.Compare(strings.ToLower(a.Path), strings.ToLower(b.Path)) })
	return all, nil
}

// inCache finds modules in the module cache. Modules for other systems may be missing.
func inCache(dir string, paths []string) (all []*module, err error) {
	for try := 0; ; try++ {
		out, err := command(dir, append([]string{"list", "-m", "-f", "{{.Path}}\t{{.Version}}\t{{.Dir}}"}, paths...)...)
		if err != nil {
			return nil, err
		}
		var missing []string
		all = all[:0]
		for line := range strings.Lines(string(out)) {
			f := strings.Split(strings.TrimRight(line, "\n"), "\t")
			if all = append(all, &module{Path: f[0], Version: f[1], Dir: f[2]}); f[2] == "" {
				missing = append(missing, f[0])
			}
		}
		if len(missing) == 0 {
			return all, nil
		}
		if try > 0 {
			return nil, fmt.Errorf("not in the module cache: %s", strings.Join(missing, ", "))
		}
		if _, err := command(dir, append([]string{"mod", "download"}, missing...)...); err != nil {
			return nil, err
		}
	}
}

// uses returns which modules are linked, on Linux.
func uses(dir string) (map[string]string, error) {
	all := map[string]string{}
	for _, x := range []struct{ pattern, use string }{{"./...", inPackages}, {"./cmd/millrace", inCommand}} {
		out, err := command(dir, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", x.pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range strings.Fields(string(out)) {
			all[path] = x.use
		}
	}
	return all, nil
}

// command runs the go command in a fixed environment.
func command(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", args[0], err, errs.Bytes())
	}
	return out, nil
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying)(\.(txt|md))?$`)

// read finds the licences in a module's root.
func (m *module) read() error {
	files, err := os.ReadDir(m.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasPrefix(strings.ToUpper(f.Name()), "NOTICE") {
			m.notice = true
		}
		if !licenceFile.MatchString(f.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.Dir, f.Name()))
		if err != nil {
			return err
		}
		names := licences(text)
		if len(names) == 0 {
			m.unknown = f.Name()
		}
		m.licences = append(m.licences, names...)
	}
	slices.Sort(m.licences)
	m.licences = slices.Compact(m.licences)
	return nil
}

// licences returns the known licences contained in a text.
func licences(text []byte) (names []string) {
	s := strings.ToLower(strings.Join(strings.Fields(string(text)), " "))
	for _, x := range []struct {
		name      string
		has, less string
	}{
		{"Apache-2.0", "apache license version 2.0", ""},
		{"MPL-2.0", "mozilla public license version 2.0", ""},
		{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee", ""},
		{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy of this software", ""},
		{"BSD-3-Clause", "neither the name of", ""},
		{"BSD-2-Clause", "redistribution and use in source and binary forms", "neither the name of"},
	} {
		if strings.Contains(s, x.has) && (x.less == "" || !strings.Contains(s, x.less)) {
			names = append(names, x.name)
		}
	}
	return names
}

// check reports what is wrong with a module.
func (m *module) check() error {
	if len(m.licences) == 0 || m.unknown != "" {
		return fmt.Errorf("%s %s: no known licence in %s: read it", m.Path, m.Version, filepath.Join(m.Dir, m.unknown))
	}
	for _, l := range m.licences {
		if !slices.Contains(allowed[l], m.use) {
			return fmt.Errorf("%s %s: %s is not allowed for %s", m.Path, m.Version, l, m.use)
		}
	}
	return nil
}

// page is docs/licences.md.
func page(all []*module) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`# Modules and their licences

The modules that go.mod requires. *command*: linked into ` + "`millrace`" + `; *packages*: linked into programs that import one of the packages that need it; *tests*: linked
into tests only. A notice is a NOTICE file that must accompany copies. The Go standard library is under BSD-3-Clause. ` + "`make licences`" + ` writes
this page from the module cache. A test fails when the page does not match go.mod, or when a module has a licence that is not on the list of allowed ones.

| module | version | licence | for |
| --- | --- | --- | --- |
`)
	for _, m := range all {
		if err := m.check(); err != nil {
			return nil, err
		}
		notice := ""
		if m.notice {
			notice = ", with a notice"
		}
		fmt.Fprintf(&b, "| %s | %s | %s%s | %s |\n", m.Path, m.Version, strings.Join(m.licences, ", "), notice, m.use)
	}
	return b.Bytes(), nil
}
