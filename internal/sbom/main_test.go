package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

func program() *debug.BuildInfo {
	return &debug.BuildInfo{
		GoVersion: "go1.26.8", Path: "example.com/mill/cmd/mill",
		Main: debug.Module{Path: "example.com/mill", Version: "v1.2.3"},
		Deps: []*debug.Module{
			{Path: "example.com/a", Version: "v1.0.0", Sum: "h1:abc="},
			{Path: "example.com/b", Version: "v2.0.0+incompatible", Replace: &debug.Module{Path: "example.com/c", Version: "v0.1.0"}},
		},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "f00"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "GOARCH", Value: "arm64"}},
	}
}

var licences = map[string][]string{"example.com/a v1.0.0": {"MIT"}, "example.com/c v0.1.0": {"ISC", "BSD-3-Clause"}}

func TestWhatAProgramIsMadeOf(t *testing.T) {
	b, err := document(program(), "5ca1e", licences)
	if err != nil {
		t.Fatal(err)
	}
	var doc bom
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Format != "CycloneDX" || doc.Spec != "1.5" || doc.Version != 1 || doc.Metadata.Timestamp != "2026-01-02T03:04:05Z" {
		t.Errorf("got %+v", doc)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(doc.Serial) {
		t.Errorf("serial number %s", doc.Serial)
	}
	if c := doc.Metadata.Component; c.Type != "application" || c.Name != "mill" || c.PURL != "pkg:golang/example.com/mill@v1.2.3" || len(c.Hashes) != 1 || c.Hashes[0] != (hash{"SHA-256", "5ca1e"}) || len(c.Properties) != 2 {
		t.Errorf("the program is %+v", c)
	}
	var got []string
	for i, c := range doc.Components {
		line := c.PURL
		for _, l := range c.Licences {
			line += " " + l.Licence.ID
		}
		for _, p := range c.Properties {
			line += " " + p.Value
		}
		got = append(got, line)
		if len(doc.Dependencies) != 1 || len(doc.Dependencies[0].DependsOn) != len(doc.Components) || doc.Dependencies[0].DependsOn[i] != c.Ref {
			t.Errorf("%s is no dependency", c.Ref)
		}
	}
	want := "pkg:golang/std@1.26.8 BSD-3-Clause\npkg:golang/example.com/a@v1.0.0 MIT h1:abc=\npkg:golang/example.com/c@v0.1.0 ISC BSD-3-Clause"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}

// The same program gives the same bytes, another one another serial number.
func TestTheSerialNumberIsThePrograms(t *testing.T) {
	first, err := document(program(), "1", licences)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := document(program(), "1", licences)
	other, _ := document(program(), "2", licences)
	serial := func(b []byte) string {
		var doc bom
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Serial
	}
	if !bytes.Equal(first, again) || serial(first) == serial(other) {
		t.Errorf("serial numbers %s, %s, %s", serial(first), serial(again), serial(other))
	}
}

func TestAModuleWithoutALicenceIsAFault(t *testing.T) {
	p := program()
	p.Deps = append(p.Deps, &debug.Module{Path: "example.com/new", Version: "v1.0.0"})
	if _, err := document(p, "1", licences); err == nil || !strings.Contains(err.Error(), "example.com/new v1.0.0") {
		t.Errorf("got %v", err)
	}
}

// The page of licences of this module can be read, notices and several licences included.
func TestThePageOfLicences(t *testing.T) {
	all, err := readLicences("../../docs/licences.md")
	if err != nil || len(all) < 30 {
		t.Fatalf("%d modules, %v", len(all), err)
	}
	for module, names := range all {
		if len(names) == 0 {
			t.Errorf("%s has none", module)
		}
		for _, n := range names {
			if !regexp.MustCompile(`^[A-Z][A-Za-z0-9.-]+$`).MatchString(n) {
				t.Errorf("%s: licence %q", module, n)
			}
		}
	}
	page := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(page, []byte("| module | version | licence | for |\n| --- | --- | --- | --- |\n| a | v1 | MIT, ISC, with a notice | command |\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if all, err := readLicences(page); err != nil || len(all) != 1 || strings.Join(all["a v1"], " ") != "MIT ISC" {
		t.Errorf("got %v, %v", all, err)
	}
}

// A program's own words are read: this test is one.
func TestAProgramIsRead(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := run(&b, self, ""); err != nil || !strings.Contains(b.String(), "pkg:golang/std@") {
		t.Errorf("got %s, %v", b.String(), err)
	}
	if err := run(&b, "main_test.go", ""); err == nil {
		t.Error("a text is a program")
	}
}
