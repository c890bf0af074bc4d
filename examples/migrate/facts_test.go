package migrate

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const docs = "../../docs"

// The quotations in the table of sources of docs/comparison.md are in the files and lines that it gives.
func TestTheComparisonsFactsStandThere(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "comparison.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| (\\d+) \\| `([^`]+)` \\| `([^`]+):(\\d+)` \\| (.+) \\|$").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 15 {
		t.Fatalf("%d facts, want 15 or more", len(rows))
	}
	text, _, _ := strings.Cut(string(page), "## Sources")
	dirs := map[string]string{}
	for i, row := range rows {
		n, module, file, line, want := row[1], row[2], row[3], row[4], row[5]
		if n != strconv.Itoa(i+1) || !strings.Contains(text, "["+n+"]") {
			t.Errorf("fact %s: the page does not use it, or its number is wrong", n)
		}
		if dirs[module] == "" {
			dirs[module] = download(t, module)
		}
		b, err := os.ReadFile(filepath.Join(dirs[module], file))
		if err != nil {
			t.Errorf("fact %s: %v", n, err)
			continue
		}
		at, _ := strconv.Atoi(line)
		lines := strings.Split(string(b), "\n")
		if at > len(lines) || !strings.Contains(lines[at-1], want) {
			t.Errorf("fact %s: %s %s:%s does not say %q", n, module, file, line, want)
		}
	}
	// Those by commit or issue can't be read from here; each has a place, and is used.
	others := regexp.MustCompile("(?m)^\\| ([a-z]) \\| \\[[\\w.-]+/[\\w.-]+\\]\\(https://github.com/[^)]+\\) (`[0-9a-f]{40}`|issue \\d+) \\| .+ \\| .+ \\|$").FindAllStringSubmatch(string(page), -1)
	for i, row := range others {
		if row[1] != string(rune('a'+i)) || !strings.Contains(text, "["+row[1]+"]") {
			t.Errorf("fact %s: the page does not use it, or it is out of order", row[1])
		}
	}
	for _, m := range regexp.MustCompile(`\[([a-z])\][^(]`).FindAllStringSubmatch(text, -1) {
		if int(m[1][0]-'a') >= len(others) {
			t.Errorf("there is no fact %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\[(\d+)\][^(]`).FindAllStringSubmatch(text, -1) {
		if n, _ := strconv.Atoi(m[1]); n < 1 || n > len(rows) {
			t.Errorf("there is no fact %d", n)
		}
	}
}

// download returns the folder of a module's source.
func download(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", module).Output()
	var m struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &m)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", module, err, out)
	}
	return m.Dir
}

// The programs that the pages show as theirs and ours stand, line by line, in those that are tested.
func TestThePagesShowWhatIsTested(t *testing.T) {
	for name, theirs := range map[string]string{"zinx": "theirs.go", "gnet": "theirs.go", "nano": "theirs.go", "netty": "Theirs.java"} {
		lang := "golang"
		if strings.HasSuffix(theirs, ".java") {
			lang = "java"
		}
		page, err := os.ReadFile(filepath.Join(docs, "migrate", name+".md"))
		if err != nil {
			t.Fatal(err)
		}
		for lang, file := range map[string]string{lang: theirs, "go": "ours.go"} {
			file = filepath.Join(name, file)
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if lang == "java" {
				code = regexp.MustCompile("(?m)^    ").ReplaceAll(code, nil) // the page leaves the class around it out
			}
			blocks := regexp.MustCompile("(?ms)^```"+lang+"\n(.+?)^```$").FindAllStringSubmatch(string(page), -1)
			if lang == "java" && len(blocks) > 1 {
				blocks = blocks[:1] // the other is a client's
			}
			if len(blocks) == 0 {
				t.Errorf("%s.md has no block of %s", name, lang)
			}
			for _, b := range blocks {
				for _, piece := range strings.Split(strings.TrimSpace(b[1]), "\n\n") {
					if !strings.Contains(string(code), piece) {
						t.Errorf("%s.md: this does not stand in %s:\n%s", name, file, piece)
					}
				}
			}
		}
	}
}
