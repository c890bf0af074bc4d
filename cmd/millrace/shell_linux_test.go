package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"millrace/internal/proctest"
)

func model(t *testing.T) *kong.Application {
	t.Helper()
	parser, err := newParser(new(commands), &sources{}, io.Discard, io.Discard, kong.Vars{"cpus": "1", "workers": "2"})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

// lines are the beginnings of command lines, one of each command, with the flags that may follow.
func lines(t *testing.T) map[string][]string {
	all := map[string][]string{}
	for _, n := range model(t).Leaves(true) {
		line := "millrace"
		for _, word := range strings.Fields(n.Path()) {
			line += " " + strings.Trim(word, "<>")
		}
		for at := n; at != nil; at = at.Parent {
			for _, f := range at.Flags {
				if !f.Hidden {
					all[line] = append(all[line], "--"+f.Name)
				}
			}
		}
	}
	if len(all) < 12 || len(all["millrace serve"]) < 90 || !slices.Contains(all["millrace admin addr kick"], "--token-file") {
		t.Fatalf("the model has %v", all)
	}
	return all
}

// script runs one of a shell, with the completion of that shell in the file $1 and the
// program in the PATH.
func script(t *testing.T, shell, text string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		proctest.Missing(t, err)
	}
	completion, stderr, code := millrace(t, nil, "", "completion", shell)
	if code != 0 {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	dir := t.TempDir()
	file, run := filepath.Join(dir, "completion"), filepath.Join(dir, "run")
	for name, b := range map[string]string{file: completion, run: text} {
		if err := os.WriteFile(name, []byte(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := map[string][]string{"bash": {"--norc", run, file}, "zsh": {"-f", run, file}, "fish": {"--no-config", run, file}}[shell]
	cmd := exec.Command(path, args...)
	cmd.Env = environ("HOME="+dir, "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%.4000s", shell, err, out)
	}
	return string(out)
}

// ask completes lines in a shell and returns the words of each.
type ask func(t *testing.T, all []string) map[string][]string

// read reads what the scripts print: the line behind a #, then its words.
func read(out string) map[string][]string {
	all := map[string][]string{}
	at := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if name, is := strings.CutPrefix(line, "#"); is {
			at = name
		} else if line != "" {
			all[at] = append(all[at], line)
		}
	}
	return all
}

// inBash calls the function that bash calls, with what it sets.
func inBash(t *testing.T, all []string) map[string][]string {
	return read(script(t, "bash", `source "$1"
compopt() { echo "compopt $*"; }
while IFS= read -r line; do
	echo "#$line"
	COMP_LINE=$line COMP_POINT=${#line}
	_millrace millrace
	printf '%s\n' "${COMPREPLY[@]}"
done <<'END'
`+strings.Join(all, "\n")+"\nEND\n"))
}

// inZsh calls the function that zsh calls; what it gives to _describe and _files is printed.
func inZsh(t *testing.T, all []string) map[string][]string {
	return read(script(t, "zsh", `compdef() { }
compset() { }
_files() { print -r -- "compopt -o default" }
_describe() { local w; for w in "${(@P)@[-1]}"; do print -r -- "${w%%:*}"; done }
source "$1"
while IFS= read -r line; do
	print -r -- "#$line"
	words=("${(@s: :)line}")
	CURRENT=${#words}
	_millrace
done <<'END'
`+strings.Join(all, "\n")+"\nEND\n"))
}

// inFish has fish complete them.
func inFish(t *testing.T, all []string) map[string][]string {
	out := read(script(t, "fish", `source $argv[1]
while read -l line
	echo "#$line"
	complete -C "$line"
end <`+"(printf '%s\\n' '"+strings.Join(all, "' '")+"' | psub)\n"))
	for _, words := range out {
		for i, w := range words {
			words[i], _, _ = strings.Cut(w, "\t")
		}
	}
	return out
}

var shells = map[string]ask{"bash": inBash, "zsh": inZsh, "fish": inFish}

// Each shell offers every flag of every command.
func TestShellsCompleteEveryFlag(t *testing.T) {
	want := lines(t)
	var all []string
	for line := range want {
		all = append(all, line+" --")
	}
	for shell, complete := range shells {
		t.Run(shell, func(t *testing.T) {
			got := complete(t, all)
			for line, flags := range want {
				for _, f := range flags {
					if !slices.Contains(got[line+" --"], f) {
						t.Errorf("%s --: no %s in %q", line, f, got[line+" --"])
					}
				}
			}
		})
	}
}

func TestShellsCompleteWordsAndValues(t *testing.T) {
	for shell, complete := range shells {
		t.Run(shell, func(t *testing.T) {
			// What stands behind = is all that bash replaces.
			dispatch := []string{"--dispatch=inline"}
			if shell == "bash" {
				dispatch = []string{"inline"}
			}
			want := map[string][]string{
				"millrace ser":                                             {"serve"},
				"millrace bench re":                                        {"report"},
				"millrace admin 127.0.0.1:7070 ki":                         {"kick"},
				"millrace admin --timeout 3s /x un":                        {"undrain"},
				"millrace serve --max-frame 8 --max-fram":                  nil, // it was given
				"millrace serve --dispatch ":                               {"adaptive", "ordered", "inline"},
				"millrace serve --dispatch=in":                             dispatch,
				"millrace serve --addr x --log-level w":                    {"warn"},
				"millrace serve --handle-dispatch 1/1=inline --handle-dis": {"--handle-dispatch"},
				"millrace new --with db,c":                                 {"db,cluster"},
				"millrace completion ":                                     {"bash", "zsh", "fish"},
				"millrace version --nonesuc":                               nil,
				"millrace __compl":                                         nil,
			}
			if shell != "fish" { // that lists files itself
				want["millrace serve --config "] = []string{"compopt -o default"}
				want["millrace replay --speed max "] = []string{"compopt -o default"}
			}
			var all []string
			for line := range want {
				all = append(all, line)
			}
			got := complete(t, all)
			for line, words := range want {
				have := got[line]
				slices.Sort(have)
				slices.Sort(words)
				if !slices.Equal(have, words) {
					t.Errorf("%s: got %q, want %q", line, have, words)
				}
			}
		})
	}
}

// The page has every command and every flag with its help, and is right for man.
func TestTheManualIsWhole(t *testing.T) {
	page, _, code := millrace(t, nil, "", "man")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for line, flags := range lines(t) {
		_, after, _ := strings.Cut(line, " ")
		_, section, found := strings.Cut(page, ".SS \""+strings.NewReplacer("addr ", "<addr> ").Replace(after))
		section, _, _ = strings.Cut(section, "\n.SS ")
		if !found {
			t.Errorf("no section of %s", line)
		}
		for _, f := range flags {
			name := strings.ReplaceAll(f, "-", `\-`)
			if f != "--help" && !regexp.MustCompile(`(?m)^\.B (-h, )?`+regexp.QuoteMeta(name)+`(=.*)?$`).MatchString(strings.ReplaceAll(section, `\-\-[no\-]`, `\-\-`)) {
				t.Errorf("%s: no %s", line, f)
			}
		}
	}
	for _, c := range exitCodes {
		if !strings.Contains(page, "\n.B "+c.codes+"\n") {
			t.Errorf("no exit code %s", c.codes)
		}
	}
	for _, tool := range [][]string{{"mandoc", "-T", "lint", "-W", "warning"}, {"groff", "-man", "-Tutf8", "-ww", "-z", "-k"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Log("not checked:", err)
			continue
		}
		cmd := exec.Command(tool[0], tool[1:]...)
		// A build of no commit has no date.
		cmd.Stdin = strings.NewReader(strings.Replace(page, `1 ""`, `1 "2026-01-02"`, 1))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %v\n%.2000s", tool, err, out)
		}
	}
}

// The exit codes of the manual are those of the docs.
func TestTheDocsExitCodesAreTheManuals(t *testing.T) {
	plain := strings.ReplaceAll(page(t, "docs/exit-codes.md"), "`", "")
	rows := regexp.MustCompile(`(?m)^\| ([0-9, ]+) \| (.*?) \| (.*) \|$`).FindAllStringSubmatch(plain, -1)
	if len(rows) != len(exitCodes) {
		t.Fatalf("the page has %d rows, the manual %d", len(rows), len(exitCodes))
	}
	for i, row := range rows {
		if c := exitCodes[i]; row[1] != c.codes || row[2] != c.commands || row[3] != c.meaning {
			t.Errorf("the page has the row %q, the manual %q", row[1:], c)
		}
	}
}
