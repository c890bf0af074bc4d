package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/internal/proctest"
)

const root = "../.."

// machine is a PATH of its own: what of the system's programs is in it, and programs that
// write how they were called into a file.
type machine struct {
	t   *testing.T
	bin string
	log string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, bin: filepath.Join(dir, "bin"), log: filepath.Join(dir, "log")}
	if err := os.Mkdir(m.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bash", "sh", "dirname", "env", "tail"} {
		path, err := exec.LookPath(name)
		if err != nil {
			proctest.Missing(t, err)
		}
		if err := os.Symlink(path, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.program("go", "")
	return m
}

// program puts one there, as lines of shell.
func (m *machine) program(name, script string) {
	m.t.Helper()
	script = "#!/bin/sh\necho " + name + ` "$@" >>` + m.log + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(m.bin, name), []byte(script), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// run runs test.sh with args.
func (m *machine) run(args ...string) (stderr string, code int) {
	m.t.Helper()
	script, err := filepath.Abs(filepath.Join(root, "test.sh"))
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := os.ReadFile(script); err != nil { // so that go test runs it anew when it has changed
		m.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(m.bin, "bash"), append([]string{script}, args...)...)
	cmd.Env = []string{"PATH=" + m.bin}
	var b strings.Builder
	cmd.Stderr = &b
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

func (m *machine) calls() string {
	b, _ := os.ReadFile(m.log)
	return string(b)
}

// Who is not root and has no sudo is told in one line what is missing, and nothing is run.
func TestWithoutRootOneLineNamesWhatIsMissing(t *testing.T) {
	m := newMachine(t)
	m.program("id", "echo 1000")
	m.program("apt-get", "")
	out, code := m.run()
	if code != 1 || strings.Count(out, "\n") != 1 || !strings.Contains(out, " gcc ") || !strings.Contains(out, " make ") || !strings.Contains(out, "apt-get install") || !strings.Contains(out, " python3 ") {
		t.Errorf("exit code %d, %q", code, out)
	}
	if strings.Contains(m.calls(), "apt-get") {
		t.Errorf("called\n%s", m.calls())
	}
}

// With a compiler and make the tests run, and one line names what some of them will lack.
func TestWithoutTheRestTheTestsRun(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"gcc", "make", "git"} {
		m.program(name, "")
	}
	m.program("id", "echo 1000")
	out, code := m.run("race", "PKGS=./codec")
	if code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "some tests will skip without") || !strings.Contains(out, " python3 ") {
		t.Errorf("exit code %d, %q", code, out)
	}
	if !strings.Contains(m.calls(), "make race PKGS=./codec\n") {
		t.Errorf("called\n%s", m.calls())
	}
	if m.run(); !strings.HasSuffix(m.calls(), "make test\n") {
		t.Errorf("called\n%s", m.calls())
	}
}

// Root, and who has sudo, installs all at once; where one package is unknown, the others.
func TestWhatIsMissingIsInstalled(t *testing.T) {
	for _, tt := range []struct{ name, id string }{{"root", "0"}, {"sudo", "1000"}} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.program("id", "echo "+tt.id)
			if tt.id != "0" {
				m.program("sudo", `[ "$1" != -n ] || shift; exec "$@"`)
			}
			for _, name := range []string{"true", "tee", "chmod", "rm"} { // the machine's policy is left alone
				m.program(name, "")
			}
			m.program("apt-get", `case "$*" in *chromium*) exit 100;; *gcc*) for p in gcc make; do echo '#!/bin/sh' >`+m.bin+`/$p; chmod=/bin/chmod; $chmod 755 `+m.bin+`/$p; done;; esac`)
			out, code := m.run("setup")
			calls := m.calls()
			if code != 0 || !strings.Contains(out, "can't install chromium-headless-shell") || strings.Contains(out, "can't install gcc") {
				t.Errorf("exit code %d, %q", code, out)
			}
			if !strings.Contains(calls, "apt-get install -y -qq --no-install-recommends python3\n") || strings.Count(calls, "\napt-get update") != 1 {
				t.Errorf("called\n%s", calls)
			}
			if strings.Contains(calls, "\nmake ") {
				t.Errorf("setup ran make:\n%s", calls)
			}
			if _, err := os.Stat("/usr/sbin/policy-rc.d"); err != nil && !strings.Contains(calls, "rm -f /usr/sbin/policy-rc.d\n") {
				t.Errorf("its policy stays:\n%s", calls)
			}
		})
	}
}

// CI runs what the README says.
func TestCIAndTheREADMERunTheSame(t *testing.T) {
	ci, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(ci), "/../test.sh\"\n") || !strings.Contains(string(readme), "\n    ./test.sh\n") {
		t.Errorf("%s; the README's test command is another", ci)
	}
}
