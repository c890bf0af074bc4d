package ts_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// rig is a copy of the package's folder, and what its tests are run with.
type rig struct {
	testing.TB
	ctx    context.Context
	dir    string // the copy
	server string // an executable
	env    []string
}

// TestPackage checks and runs the TypeScript client in a copy of its folder, against the
// real server and with the vectors that the Go codec passes. Then it packs it and uses what
// was packed.
func TestPackage(t *testing.T) {
	r := newRig(t)
	r.run(r.dir, "npm ci --no-audit --no-fund")
	r.run(r.dir, "npm run check")
	t.Log(lastLines(r.run(r.dir, "npm test"), 12))
	t.Log("browser bundle, minified and gzipped:", strings.TrimSpace(r.run(r.dir, "npm run --silent size")), "bytes")
	t.Run("packed", func(t *testing.T) { r.TB = t; r.packed() })
}

func newRig(t *testing.T) *rig {
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		proctest.Missing(t, "no node here: ", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("node %s: the client asks for 20 or later", strings.TrimSpace(string(out)))
	}
	if _, err := exec.LookPath("npm"); err != nil {
		proctest.Missing(t, "no npm here: ", err)
	}
	vectors, err := filepath.Abs("../../../codec/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	t.Cleanup(cancel)
	r := &rig{TB: t, ctx: ctx, dir: filepath.Join(dir, "ts"), server: filepath.Join(dir, "millrace")}
	if out, err := exec.Command("go", "build", "-o", r.server, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("the server: %v\n%s", err, out)
	}
	certs := filepath.Join(dir, "certs")
	makeCertificates(t, certs)
	r.env = append(os.Environ(), "TEST_SERVER="+r.server, "TEST_VECTORS="+vectors, "TEST_CERTS="+certs)
	for _, name := range []string{"src", "test"} {
		if err := os.CopyFS(filepath.Join(r.dir, name), os.DirFS(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", "README.md", "LICENSE"} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(r.dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// run runs a command in dir and returns what it printed.
func (r *rig) run(dir, line string) string {
	r.Helper()
	args := strings.Fields(line)
	cmd := exec.CommandContext(r.ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, r.env, time.Second
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("%s: %v\n%s", line, err, out)
	}
	r.Logf("%s: %v", line, time.Since(start).Round(time.Millisecond))
	return string(out)
}

// packed looks at what npm would publish, installs it into another project, and has that
// call the server and be checked against the types.
func (r *rig) packed() {
	var packs []struct {
		Filename string
		Files    []struct{ Path string }
	}
	out := r.run(r.dir, "npm pack --json --silent")
	at := strings.Index(out, "[") // what the build says may stand in front
	if at < 0 {
		r.Fatalf("npm pack says:\n%s", out)
	}
	if err := json.Unmarshal([]byte(out[at:]), &packs); err != nil || len(packs) != 1 {
		r.Fatalf("npm pack says: %v\n%s", err, out)
	}
	var got []string
	for _, f := range packs[0].Files {
		got = append(got, f.Path)
	}
	want := []string{"LICENSE", "README.md", "package.json"}
	sources, err := filepath.Glob("src/*.ts")
	if err != nil {
		r.Fatal(err)
	}
	for _, s := range sources {
		name := "dist/" + strings.TrimSuffix(filepath.Base(s), ".ts")
		want = append(want, name+".js", name+".d.ts")
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.Errorf("the package has\n%q, want\n%q", got, want)
	}

	user := filepath.Join(r.TempDir(), "user")
	for name, text := range map[string]string{
		"package.json":  `{"name":"user","private":true,"type":"module"}`,
		"tsconfig.json": `{"compilerOptions":{"module":"NodeNext","moduleResolution":"NodeNext","target":"ES2022","lib":["ES2022"],"types":["node"],"typeRoots":["` + filepath.Join(r.dir, "node_modules/@types") + `"],"strict":true,"outDir":"out"}}`,
		"use.ts": `import { connect, ServerError, type Client } from "millrace-client";
import { Varint } from "millrace-client/varint";
const c: Client = connect(process.argv[2]!);
const sum = c.method<{ a: number; b: number }, { sum: number }>("4/3");
const { sum: n } = await sum({ a: 20, b: 22 });
const refused = await c.call("9/9").catch((e: unknown) => (e instanceof ServerError ? e.code : -1));
c.close();
console.log(n, refused, new Varint().encode(0x10001, new Uint8Array(300)).length);
`,
	} {
		err := os.MkdirAll(user, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(user, name), []byte(text), 0o644)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	r.run(user, "npm install --offline --no-audit --no-fund "+filepath.Join(r.dir, packs[0].Filename))
	r.run(user, filepath.Join(r.dir, "node_modules/.bin/tsc")+" -p .")
	addr := r.serve()
	if out := strings.TrimSpace(r.run(user, "node out/use.js "+addr)); out != "42 2 306" {
		r.Errorf("a program that uses the package says %q, want %q", out, "42 2 306")
	}
}

// serve starts a server and returns its address.
func (r *rig) serve() string {
	cmd := exec.CommandContext(r.ctx, r.server, "serve", "--addr", "tcp://127.0.0.1:0")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b := make([]byte, 256)
	n, err := stdout.Read(b)
	addr, ok := strings.CutPrefix(strings.TrimSpace(string(b[:n])), "ready ")
	if err != nil || !ok {
		r.Fatalf("the server says %q, %v", b[:n], err)
	}
	return addr
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func TestLicenseIsTheRepositorys(t *testing.T) {
	a, err := os.ReadFile("../../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("LICENSE"); err != nil || string(a) != string(b) {
		t.Errorf("LICENSE here is not the repository's: copy it (%v)", err)
	}
}
