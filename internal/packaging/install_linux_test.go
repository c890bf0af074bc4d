package packaging

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// patience is how long the tests wait for what should come soon.
const patience = 2 * time.Minute

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func makes(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("make"); err != nil {
		proctest.Missing(t, err)
	}
	cmd := exec.Command("make", append([]string{"-C", root}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make %v: %v\n%.4000s", args, err, out)
	}
}

// filesBelow are the files below dir, by their paths in it.
func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// make install puts everything where it belongs, what is there works with one another, and
// what the operator has changed stays.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	args := []string{"DESTDIR=" + dest, "PREFIX=/opt/mill", "BINARY=" + filepath.Join(t.TempDir(), "millrace")}
	makes(t, append([]string{"install"}, args...)...)
	want := []string{
		"etc/millrace/millrace.toml", "opt/mill/bin/millrace", "opt/mill/lib/systemd/system/millrace.service",
		"opt/mill/share/bash-completion/completions/millrace", "opt/mill/share/fish/vendor_completions.d/millrace.fish",
		"opt/mill/share/man/man1/millrace.1", "opt/mill/share/zsh/site-functions/_millrace",
	}
	if got := filesBelow(t, dest); !slices.Equal(got, want) {
		t.Errorf("installed are %q, want %q", got, want)
	}
	for _, name := range want {
		if info, err := os.Stat(filepath.Join(dest, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	program, settings := filepath.Join(dest, "opt/mill/bin/millrace"), filepath.Join(dest, "etc/millrace/millrace.toml")

	t.Run("the image's commands", func(t *testing.T) { image(t, program) })
	t.Run("the unit", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(dest, want[2]))
		if err != nil {
			t.Fatal(err)
		}
		unit(t, string(b), program, settings)
	})

	changed := []byte("# mine\naddr = [\"tcp://127.0.0.1:0\"]\n")
	if err := os.WriteFile(settings, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	makes(t, append([]string{"install"}, args...)...)
	if b, _ := os.ReadFile(settings); !bytes.Equal(b, changed) {
		t.Errorf("install has changed the settings:\n%s", b)
	}
	makes(t, append([]string{"uninstall"}, args...)...)
	if got := filesBelow(t, dest); !slices.Equal(got, want[:1]) {
		t.Errorf("uninstall leaves %q", got)
	}
}

// instruction is the last one of this name in the Dockerfile.
func instruction(t *testing.T, name string) string {
	t.Helper()
	all := regexp.MustCompile(`(?m)^`+name+` (.*)$`).FindAllStringSubmatch(read(t, "Dockerfile"), -1)
	if all == nil {
		t.Fatalf("the Dockerfile has no %s", name)
	}
	return all[len(all)-1][1]
}

// words is what an instruction has in JSON.
func words(t *testing.T, instruction string) (list []string) {
	t.Helper()
	i := strings.IndexByte(instruction, '[')
	if i < 0 {
		t.Fatalf("%s is for a shell, and there is none", instruction)
	}
	if err := json.Unmarshal([]byte(instruction[i:]), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// image runs what the Dockerfile has the image run: its server is healthy while it is there.
func image(t *testing.T, program string) {
	_, rest, _ := strings.Cut(read(t, "go.mod"), "\ngo ")
	version, _, _ := strings.Cut(rest, "\n")
	if from := "golang:" + version + " AS build"; !strings.Contains(read(t, "Dockerfile"), "FROM "+from+"\n") {
		t.Errorf("go.mod asks for Go %s, the Dockerfile does not compile with it", version)
	}
	if from, user := instruction(t, "FROM"), instruction(t, "USER"); from != "scratch" || !regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`).MatchString(user) {
		t.Errorf("from %s, as %s", from, user)
	}
	if entry := words(t, instruction(t, "ENTRYPOINT")); !slices.Equal(entry, []string{"/millrace"}) {
		t.Errorf("it starts %q", entry)
	}
	port := freePort(t)
	var args []string
	for _, a := range words(t, instruction(t, "CMD")) {
		args = append(args, strings.Replace(a, "0.0.0.0:7000", "127.0.0.1:"+port, 1))
	}
	check := words(t, instruction(t, "HEALTHCHECK"))
	if check[0] != "/millrace" || !strings.Contains(strings.Join(args, " "), port) {
		t.Fatalf("it runs %q and checks by %q", args, check)
	}
	healthy := func() error {
		var with []string
		for _, a := range check[1:] {
			with = append(with, strings.Replace(a, "127.0.0.1:7000", "127.0.0.1:"+port, 1))
		}
		return exec.Command(program, with...).Run()
	}
	if healthy() == nil {
		t.Error("healthy without a server")
	}
	stop := start(t, program, args)
	if err := healthy(); err != nil {
		t.Errorf("not healthy: %v", err)
	}
	stop()
}

// start runs a server until stop, which drains it.
func start(t *testing.T, program string, args []string) (stop func()) {
	t.Helper()
	cmd := exec.Command(program, args...)
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
	if err != nil || !strings.HasPrefix(line, "ready ") {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("millrace %q: got %q, %v: %s", args, line, err, stderr.String())
	}
	return func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v: %s", err, stderr.String())
		}
		kill.Stop()
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// unit looks at the installed unit: systemd takes it, its command is what is installed and
// starts with the settings that are, and its times fit the server's.
func unit(t *testing.T, text, program, settings string) {
	set := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([A-Z][A-Za-z]+)=(.*)$`).FindAllStringSubmatch(text, -1) {
		set[m[1]] = m[2]
	}
	if set["ExecStart"] != "/opt/mill/bin/millrace serve --config /etc/millrace/millrace.toml" {
		t.Errorf("it starts %s", set["ExecStart"])
	}
	if set["Type"] != "notify" || set["RestartPreventExitStatus"] != "64" || set["DynamicUser"] != "yes" {
		t.Errorf("the unit has %v", set)
	}
	out, err := exec.Command(program, "serve", "--config", settings, "--print-config").CombinedOutput()
	if err != nil {
		t.Fatalf("serve --print-config: %v: %s", err, out)
	}
	m := regexp.MustCompile(`(?m)^drain-timeout = "(.*)"$`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no drain-timeout in\n%s", out)
	}
	drain, err := time.ParseDuration(string(m[1]))
	stop, err2 := time.ParseDuration(set["TimeoutStopSec"] + "s")
	if err != nil || err2 != nil || stop < drain+10*time.Second {
		t.Errorf("systemd kills after %v, %v; a drain takes %v, %v", stop, err2, drain, err)
	}
	// A loop that stands still is told of after 10 s, and the server says that it lives twice a period.
	if dog, err := time.ParseDuration(set["WatchdogSec"] + "s"); err != nil || dog < 20*time.Second {
		t.Errorf("the watchdog waits for %v, %v", dog, err)
	}
	own := filepath.Join(t.TempDir(), "own.toml")
	b, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	text = strings.NewReplacer("0.0.0.0:7000", "127.0.0.1:0", "127.0.0.1:7070", "127.0.0.1:0").Replace(string(b))
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, program, []string{"serve", "--config", own})()
	verify(t, strings.Replace(read(t, "packaging/millrace.service"), "/usr/local/bin/millrace", program, 1))
}

func verify(t *testing.T, text string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("not verified by systemd:", err)
		return
	}
	file := filepath.Join(t.TempDir(), "millrace.service")
	if err := os.WriteFile(file, []byte(strings.Replace(text, "Documentation=man:millrace(1)\n", "", 1)), 0o644); err != nil { // it is not installed
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput(); err != nil || bytes.Contains(out, []byte("millrace.service:")) {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
}
