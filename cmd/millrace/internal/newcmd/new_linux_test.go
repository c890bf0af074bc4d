package newcmd

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/services/client"
)

var long = flag.Bool("long", false, "make, vet and test a program of each combination of parts")

// patience is how long the tests wait for what should come soon.
const patience = 2 * time.Minute

// create writes a program and returns its folder.
func create(t *testing.T, c New) string {
	t.Helper()
	c.Dir = filepath.Join(t.TempDir(), "a game") // a path with a space
	if c.Module == "" {
		c.Module = "example.com/game"
	}
	var out bytes.Buffer
	if err := c.Run(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "go run .") {
		t.Errorf("it says\n%s", out.String())
	}
	return c.Dir
}

// goIn runs the go command there, without the network.
func goIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPROXY=off", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%.4000s", strings.Join(args, " "), err, out)
	}
}

// parts are all combinations of the parts; services come with each.
func parts() (all [][]string) {
	for n := range 16 {
		with := []string{"services"}
		for i, part := range []string{"db", "cluster", "web", "admin"} {
			if n>>i&1 == 1 {
				with = append(with, part)
			}
		}
		all = append(all, with)
	}
	return all
}

// A program of each kind passes its own test, which starts it and asks it for all that it has.
// -trimpath shares what is compiled with make build.
func TestEachKindPassesItsOwnTest(t *testing.T) {
	kinds := [][]string{nil, {"services"}, {"db"}, {"cluster"}, {"web", "admin"}}
	if *long {
		kinds = append(kinds[:1], parts()...)
	}
	for _, with := range kinds {
		t.Run("with "+strings.Join(with, ","), func(t *testing.T) {
			dir := create(t, New{With: with})
			goIn(t, dir, "test", "-trimpath", "-count=1", "-timeout=3m", ".")
			if *long {
				goIn(t, dir, "vet", ".")
			}
			if out, err := exec.Command("gofmt", "-l", dir).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("gofmt -l: %s %v", out, err)
			}
		})
	}
}

// A program with everything, its modules vendored, is built where the source is no more, runs,
// answers and ends by SIGTERM; and its unit is one.
func TestAVendoredProgramStandsByItself(t *testing.T) {
	source, err := (&New{}).source(modulePath())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "source")
	if err := os.Symlink(source, link); err != nil {
		t.Fatal(err)
	}
	dir := create(t, New{With: []string{"cluster", "web"}, Vendor: true, Millrace: link})
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	goIn(t, dir, "build", "-trimpath", "-o", "game", ".")
	urls, cmd := run(t, dir, "-addr", "auto://127.0.0.1:0", "-page", "127.0.0.1:0")
	if len(urls) != 2 {
		t.Fatalf("ready with %q", urls)
	}
	c, err := client.Dial(t.Context(), client.Config{Addrs: []string{strings.Replace(urls[0], "auto:", "ws:", 1)}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(t.Context(), client.Handle(1, 1), []byte(`{"name":"ann"}`))
	if err != nil || string(answer) != `{"text":"hello, ann"}` {
		t.Errorf("got %q, %v", answer, err)
	}
	if _, err := c.Do(t.Context(), client.Handle(3, 1), []byte(`{"user":"ann"}`)); err != nil {
		t.Error(err)
	}
	c.Close()
	res, err := http.Get(urls[1])
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !bytes.Contains(page, []byte("</html>")) {
		t.Errorf("the page has %d bytes, %v", len(page), err)
	}
	check := exec.Command(filepath.Join(dir, "game"), "-check", "-addr", urls[0])
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("-check: %v: %s", err, out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	bad := exec.Command(filepath.Join(dir, "game"), "-addr", "nowhere")
	bad.Dir = dir
	if out, err := bad.CombinedOutput(); err == nil || bad.ProcessState.ExitCode() != 1 || bytes.Count(out, []byte("\n")) != 1 {
		t.Errorf("an address that is none: %v, want one line and exit code 1:\n%.2000s", err, out)
	}
	if out, err := exec.Command(filepath.Join(dir, "game"), "-check", "-addr", urls[0]).CombinedOutput(); err == nil {
		t.Errorf("-check passes without a server: %s", out)
	}
	verifyUnit(t, dir)
}

// run starts the program and waits until it is ready.
func run(t *testing.T, dir string, args ...string) (urls []string, cmd *exec.Cmd) {
	t.Helper()
	cmd = exec.Command(filepath.Join(dir, "game"), args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	kill.Stop()
	urls = strings.Fields(line)
	if err != nil || len(urls) < 2 || urls[0] != "ready" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("got %q, %v: %s", line, err, stderr.String())
	}
	return urls[1:], cmd
}

func verifyUnit(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "game.service"))
	if err != nil {
		t.Fatal(err)
	}
	const installed = "/usr/local/bin/game"
	if !bytes.Contains(b, []byte("ExecStart="+installed+" ")) {
		t.Errorf("the unit starts something else:\n%s", b)
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("not verified by systemd:", err)
		return
	}
	program := filepath.Join(t.TempDir(), "game") // a path without a space
	if err := os.Symlink(filepath.Join(dir, "game"), program); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "game.service")
	if err := os.WriteFile(unit, bytes.Replace(b, []byte(installed), []byte(program), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", unit).CombinedOutput(); err != nil || bytes.Contains(out, []byte("game.service:")) {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
}

// What can't be is told in one line, and nothing is written.
func TestWhatCannotBeIsNamed(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	source, err := (&New{}).source(modulePath()) // with -trimpath it is found from here only
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cmd  New
		want string
	}{
		{"a folder with something", New{Dir: full, Millrace: source}, "is not empty"},
		{"a folder that is a file", New{Dir: filepath.Join(full, "x"), Millrace: source}, "DIR"},
		{"a folder that can't be made", New{Dir: "/proc/none/x", Millrace: source}, `DIR "/proc/none/x"`},
		{"a module with a space", New{Dir: "new", Module: "a b"}, `--module "a b"`},
		{"a module without a word", New{Dir: "new", Module: "a//b"}, `--module "a//b"`},
		{"a module that climbs", New{Dir: "new", Module: "../b"}, `--module "../b"`},
		{"a folder that names none", New{Dir: "ä", Module: ""}, "give --module"},
		{"Millrace's module", New{Dir: "new", Module: modulePath()}, "Millrace's own"},
		{"one in it", New{Dir: "new", Module: modulePath() + "/x"}, "Millrace's own"},
		{"another source", New{Dir: "new", Millrace: full}, "--millrace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			err := tt.cmd.Run(io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want it to say %s", err, tt.want)
			}
			if left, _ := os.ReadDir("."); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}

// A name with a major version at its end is not the program's.
func TestAProgramsName(t *testing.T) {
	for module, want := range map[string]string{"example.com/game": "game", "game": "game", "example.com/game/v2": "game", "v2": "v2"} {
		p, err := (&New{Dir: "x", Module: module}).program()
		if err != nil || p.Name != want {
			t.Errorf("%s: got %v, %v, want %s", module, p, err, want)
		}
	}
}
