package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var long = flag.Bool("long", false, "make the release of the last commit twice, and compare")

// A release has all that it should, its programs are static and say their commit, its checksums
// are right, and another run, elsewhere and with another environment, makes the same bytes.
func TestTheReleaseIsReproducible(t *testing.T) {
	if !*long {
		t.Skip("compiles everything for two systems, twice: -long")
	}
	one, two := t.TempDir(), t.TempDir()
	release(t, root, one)
	clone := filepath.Join(t.TempDir(), "another place", "deeper")
	if out, err := exec.Command("git", "clone", "-q", root, clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	release(t, clone, two, "TZ=Asia/Tokyo", "GOMAXPROCS=1", "USER=somebody", "GOCACHE="+t.TempDir())
	names := filesBelow(t, one)
	if again := filesBelow(t, two); !slices.Equal(names, again) || len(names) != 5 {
		t.Fatalf("made are %q and %q", names, again)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(file(t, one, "SHA256SUMS"))) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[name] = sum
	}
	for _, name := range names {
		b := file(t, one, name)
		if !bytes.Equal(b, file(t, two, name)) {
			t.Errorf("%s is another in the second run", name)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(b)); name != "SHA256SUMS" && sums[name] != sum {
			t.Errorf("%s has the SHA-256 %s, SHA256SUMS says %s", name, sum, sums[name])
		}
		if strings.HasSuffix(name, ".tar.gz") {
			archive(t, b, strings.TrimSuffix(name, ".tar.gz"), file(t, one, strings.TrimSuffix(name, ".tar.gz")+".cdx.json"))
		}
	}
}

func release(t *testing.T, from, to string, env ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(from, "packaging", "release.sh"), to)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("release.sh: %v\n%.4000s", err, out)
	}
}

func file(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// archive looks into one, called name, and compares its program with the list of what is in it.
func archive(t *testing.T, b []byte, name string, list []byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var program []byte
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeReg {
			t.Errorf("%s is %v of %d:%d", h.Name, h.Typeflag, h.Uid, h.Gid)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		names = append(names, strings.TrimPrefix(h.Name, name+"/"))
		content, err := io.ReadAll(r)
		if err != nil || len(content) == 0 {
			t.Errorf("%s: %d bytes, %v", h.Name, len(content), err)
		}
		if path.Base(h.Name) == "millrace" {
			program = content
		}
	}
	slices.Sort(names)
	want := []string{"CHANGELOG.md", "LICENSE", "README.md", "completions/_millrace", "completions/millrace.bash", "completions/millrace.fish",
		"licences.md", "millrace", "millrace.1", "millrace.service", "millrace.toml"}
	if !slices.Equal(names, want) {
		t.Errorf("%s has %q, want %q", name, names, want)
	}
	e, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s: the program is not static", name)
		}
	}
	if arm := e.Machine == elf.EM_AARCH64; arm != strings.HasSuffix(name, "arm64") {
		t.Errorf("%s has a program for %v", name, e.Machine)
	}
	listed(t, name, program, list)
}

// listed compares the list with the program's own.
func listed(t *testing.T, name string, program, list []byte) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "millrace")
	if err := os.WriteFile(exe, program, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "version", "-m", exe).Output()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Metadata struct {
			Component struct{ Hashes []struct{ Content string } }
		}
		Components []struct {
			PURL     string
			Licenses []any
		}
	}
	if err := json.Unmarshal(list, &doc); err != nil {
		t.Fatal(err)
	}
	if h := doc.Metadata.Component.Hashes; len(h) != 1 || h[0].Content != fmt.Sprintf("%x", sha256.Sum256(program)) {
		t.Errorf("%s: the list is of %v", name, h)
	}
	deps := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(string(out), -1)
	if len(deps) < 20 || len(doc.Components) != len(deps)+1 {
		t.Errorf("%s: %d modules, the list has %d", name, len(deps), len(doc.Components))
	}
	for i, d := range deps {
		if c := doc.Components[i+1]; c.PURL != "pkg:golang/"+d[1]+"@"+strings.ReplaceAll(d[2], "+", "%2B") || len(c.Licenses) == 0 {
			t.Errorf("%s: %v, the list has %v", name, d[1:], c)
		}
	}
	commit, err := exec.Command("git", "-C", root, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "vcs.revision="+strings.TrimSpace(string(commit))) || !strings.Contains(string(out), "vcs.modified=false") {
		t.Errorf("%s: not of the commit %s:\n%s", name, commit, out)
	}
}
