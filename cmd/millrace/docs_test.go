package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var write = flag.Bool("write", false, "write the tables of docs/flags.md and docs/metrics.md instead of comparing them")

// top is the repository.
const top = "../.."

// pages are the README, the docs and the READMEs beside code, by their paths in the repository.
func pages(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, p)
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(name, ".")) && name != "." {
			return filepath.SkipDir
		}
		if filepath.Ext(name) == ".md" {
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil || len(names) < 20 {
		t.Fatalf("%d pages, %v", len(names), err)
	}
	return names
}

// manual are the pages that speak of the command: README and docs.
func manual(t *testing.T) []string {
	return slices.DeleteFunc(pages(t), func(name string) bool {
		return !strings.HasPrefix(name, "docs/") && !strings.HasPrefix(name, "README")
	})
}

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var codeBlock = regexp.MustCompile("(?ms)^```.*?^```$|^    .*?$")

// prose is a page without its blocks of code.
func prose(t *testing.T, name string) string { return codeBlock.ReplaceAllString(page(t, name), "") }

// Links lead to files that are there, and to headings that are in them.
func TestTheDocsLinksLead(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	n := 0
	for _, name := range pages(t) {
		text := regexp.MustCompile("`[^`\n]*`").ReplaceAllString(prose(t, name), "code")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			n++
			to := name
			if target != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(name), target))
			}
			if _, err := os.Stat(filepath.Join(top, to)); err != nil {
				t.Errorf("%s: no file for %s", name, m[1])
			} else if anchor != "" && !slices.Contains(anchors(t, to), anchor) {
				t.Errorf("%s: %s has no heading for #%s", name, to, anchor)
			}
		}
	}
	if n < 100 {
		t.Errorf("%d links, want 100 or more", n)
	}
}

// anchors are a page's headings as GitHub makes links of them.
func anchors(t *testing.T, name string) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(prose(t, name), -1) {
		a := strings.ToLower(strings.NewReplacer("`", "", "*", "").Replace(m[1]))
		a = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(a, "")
		all = append(all, strings.ReplaceAll(a, " ", "-"))
	}
	return all
}

// Each page of docs is in its index.
func TestTheDocsIndexIsWhole(t *testing.T) {
	index := page(t, "docs/README.md")
	for _, name := range pages(t) {
		if in, ok := strings.CutPrefix(name, "docs/"); ok && in != "README.md" && !strings.Contains(index, "("+in+")") {
			t.Errorf("docs/README.md has no link to %s", in)
		}
	}
}

// A file that a page names, with its folder, is there.
func TestTheDocsNameFilesThatAre(t *testing.T) {
	file := regexp.MustCompile("`((?:engine|codec|timerwheel|dbasync|services|bench|cmd|docs|examples|internal)/[A-Za-z0-9_./-]+)`")
	n := 0
	for _, name := range pages(t) {
		for _, m := range file.FindAllStringSubmatch(prose(t, name), -1) {
			n++
			if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if n < 50 {
		t.Errorf("%d files, want 50 or more", n)
	}
}

// A flag that README and docs name is one of some command's.
func TestTheDocsNameFlagsThatAre(t *testing.T) {
	known := []string{
		"--help", "--config", // of all commands
		"--from", // of others: git's
	}
	kongFlags(t, func(_ string, f *kong.Flag) { known = append(known, "--"+f.Name) })
	n := 0
	for _, name := range manual(t) {
		for _, line := range strings.Split(page(t, name), "\n") {
			if regexp.MustCompile(`\b(docker|systemctl|journalctl|git|npm|debootstrap|curl|apt-get) `).MatchString(line) {
				continue // its flags are another program's
			}
			for _, f := range regexp.MustCompile(`(^|[^a-z0-9-])(--[a-z0-9]+(?:-[a-z0-9]+)*)`).FindAllStringSubmatch(line, -1) {
				n++
				if !slices.Contains(known, f[2]) && !slices.Contains(known, "--"+strings.TrimPrefix(f[2], "--no-")) {
					t.Errorf("%s: no command has a flag %s", name, f[2])
				}
			}
		}
	}
	if n < 200 {
		t.Errorf("%d flags, want 200 or more", n)
	}
}

// kongFlags calls fn with each flag of each command.
func kongFlags(t *testing.T, fn func(command string, f *kong.Flag)) {
	t.Helper()
	var cli commands
	parser, err := kong.New(&cli, kong.ExplicitGroups(groups), kong.Vars{"cpus": "CPUs", "workers": "2 x CPUs"})
	if err != nil {
		t.Fatal(err)
	}
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			fn(n.Name, f)
		}
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(parser.Model.Node)
}

// docs/flags.md has every flag of serve, as its help has it.
func TestTheFlagsPageIsWhole(t *testing.T) {
	byGroup := map[string][]string{}
	kongFlags(t, func(command string, f *kong.Flag) {
		if command == "serve" && f.Name != "help" {
			byGroup[f.Group.Key] = append(byGroup[f.Group.Key], flagRow(f))
		}
	})
	var b strings.Builder
	for _, g := range groups {
		if rows := byGroup[g.Key]; rows != nil {
			fmt.Fprintf(&b, "\n## %s\n\n| flag | default | |\n| --- | --- | --- |\n%s", g.Title, strings.Join(rows, ""))
		}
	}
	compareTable(t, "docs/flags.md", b.String())
}

// flagRow is a flag's row: its help ends in the default, between brackets.
func flagRow(f *kong.Flag) string {
	name, help, standard := "--"+f.Name, strings.TrimSuffix(f.Help, "."), ""
	if i := strings.LastIndex(help, "("); i > 0 && strings.HasSuffix(help, ")") {
		help, standard = strings.TrimSpace(help[:i]), help[i+1:len(help)-1]
		standard = strings.NewReplacer(": CPUs", "", ": 2 x CPUs", "").Replace(standard)
	}
	if !f.IsBool() {
		place := f.PlaceHolder
		if place == "" {
			place = strings.ToUpper(f.Name)
		}
		name += "=" + place
	}
	return fmt.Sprintf("| `%s` | %s | %s |\n", name, standard, strings.ReplaceAll(help, "|", `\|`))
}

// compareTable compares what stands in a page between two comments, or writes it.
func compareTable(t *testing.T, name, want string) {
	t.Helper()
	const begin, end = "<!-- made by go test ./cmd/millrace -run TestThe -write -->\n", "<!-- end -->\n"
	head, rest, ok := strings.Cut(page(t, name), begin)
	was, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for its table", name)
	}
	if *write {
		if err := os.WriteFile(filepath.Join(top, name), []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	has, need := strings.Split(was, "\n"), strings.Split(want, "\n")
	for _, row := range need {
		if !slices.Contains(has, row) {
			t.Errorf("%s lacks this row; go test ./cmd/millrace -run TestThe -write:\n%s", name, row)
		}
	}
	for _, row := range has {
		if !slices.Contains(need, row) {
			t.Errorf("%s has this row, which is no more; go test ./cmd/millrace -run TestThe -write:\n%s", name, row)
		}
	}
}

// A row that stands by itself, behind an empty line, is shown as text.
func TestTheDocsRowsAreInTables(t *testing.T) {
	for _, name := range pages(t) {
		for _, block := range strings.Split(prose(t, name), "\n\n") {
			if lines := strings.SplitN(block, "\n", 3); strings.HasPrefix(block, "|") && (len(lines) < 3 || !strings.HasPrefix(lines[1], "| ---")) {
				t.Errorf("%s: a table without a head: %.80s", name, block)
			}
		}
	}
}

// A page in Chinese begins with the name of its English one and a hash of what that said when it was
// translated.
func TestTheChinesePagesAreOfToday(t *testing.T) {
	of := regexp.MustCompile(`^<!-- of (\S+) (\S+) -->\n`)
	n := 0
	for _, name := range pages(t) {
		if !strings.HasPrefix(name, "docs/zh/") && !strings.HasSuffix(name, ".zh-CN.md") {
			continue
		}
		n++
		m := of.FindStringSubmatch(page(t, name))
		if m == nil {
			t.Errorf("%s does not begin with the page that it is a translation of: <!-- of docs/PAGE.md HASH -->", name)
			continue
		}
		if hash := fmt.Sprintf("%x", sha256.Sum256([]byte(page(t, m[1]))))[:16]; hash != m[2] {
			t.Errorf("%s is older than %s: translate what has changed, then write %s in its first line", name, m[1], hash)
		}
	}
	if n < 3 {
		t.Errorf("%d pages in Chinese, want 3 or more", n)
	}
}
