// Sbom lists the components of a Go program, as CycloneDX 1.5 in JSON: the modules that are linked
// into it, according to its build information, with their checksums and licences, and the standard
// library.
//
//	go run ./internal/sbom -licences docs/licences.md millrace > millrace.cdx.json
//
// The output is reproducible: the time is that of the commit, and the serial number is derived from
// the rest.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"strings"
)

func main() {
	licences := flag.String("licences", "", "the page with a table of module, version, licence")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: sbom [-licences FILE] PROGRAM")
		os.Exit(2)
	}
	if err := run(os.Stdout, flag.Arg(0), *licences); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, program, licences string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	known := map[string][]string{}
	if licences != "" {
		if known, err = readLicences(licences); err != nil {
			return err
		}
	}
	doc, err := document(info, fmt.Sprintf("%x", sha256.Sum256(b)), known)
	if err != nil {
		return err
	}
	_, err = w.Write(doc)
	return err
}

// The parts of CycloneDX 1.5 that are used.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp,omitempty"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licences   []choice   `json:"licenses,omitempty"`
		PURL       string     `json:"purl"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	choice struct {
		Licence struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn"`
	}
)

// document lists a program whose file has a SHA-256.
func document(info *debug.BuildInfo, sum string, licences map[string][]string) ([]byte, error) {
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	main := newComponent("application", info.Main.Path, info.Main.Version, []string{"Apache-2.0"})
	main.Name = path.Base(info.Path)
	main.Hashes = []hash{{"SHA-256", sum}}
	for _, key := range []string{"vcs.revision", "GOOS", "GOARCH", "CGO_ENABLED"} {
		if set[key] != "" {
			main.Properties = append(main.Properties, property{"go:" + key, set[key]})
		}
	}
	doc := bom{Format: "CycloneDX", Spec: "1.5", Version: 1, Metadata: metadata{set["vcs.time"], main}}
	doc.Components = []component{newComponent("library", "std", strings.TrimPrefix(info.GoVersion, "go"), []string{"BSD-3-Clause"})}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		names := licences[m.Path+" "+m.Version]
		if len(licences) > 0 && names == nil {
			return nil, fmt.Errorf("%s %s: missing from the page of licences", m.Path, m.Version)
		}
		c := newComponent("library", m.Path, m.Version, names)
		if m.Sum != "" {
			c.Properties = []property{{"go:sum", m.Sum}}
		}
		doc.Components = append(doc.Components, c)
	}
	root := dependency{Ref: main.Ref}
	for _, c := range doc.Components {
		root.DependsOn = append(root.DependsOn, c.Ref)
	}
	doc.Dependencies = []dependency{root}
	rest, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(rest)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // a UUID of version 8: made by whoever needs it
	doc.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(doc)
	return b.Bytes(), err
}

func newComponent(kind, module, version string, licences []string) component {
	purl := "pkg:golang/" + module + "@" + strings.ReplaceAll(version, "+", "%2B")
	c := component{Type: kind, Ref: purl, Name: module, Version: version, PURL: purl}
	for _, id := range licences {
		var l choice
		l.Licence.ID = id
		c.Licences = append(c.Licences, l)
	}
	return c
}

// readLicences reads the rows | module | version | licence, licence | … | of a page.
func readLicences(name string) (map[string][]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := map[string][]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[2]), "v") || strings.TrimSpace(cells[2]) == "version" {
			continue
		}
		var names []string
		for name := range strings.SplitSeq(cells[3], ",") {
			if name = strings.TrimSpace(name); name != "with a notice" {
				names = append(names, name)
			}
		}
		all[strings.TrimSpace(cells[1])+" "+strings.TrimSpace(cells[2])] = names
	}
	return all, lines.Err()
}
