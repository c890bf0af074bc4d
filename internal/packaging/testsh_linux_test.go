package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
	for _, name := range []string{"bash", "sh", "dirname", "env", "tail", "tee", "chmod", "rm", "true"} {
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
	cmd := m.script("test.sh", args...)
	var b strings.Builder
	cmd.Stderr = &b
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// script is a command that runs a copy of one of the repository's, whose policy is the machine's.
func (m *machine) script(name string, args ...string) *exec.Cmd {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		m.t.Fatal(err)
	}
	script := filepath.Join(m.bin, "..", name)
	if err := os.WriteFile(script, []byte(strings.ReplaceAll(string(text), "/usr/sbin/policy-rc.d", m.policy())), 0o755); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(m.bin, "bash"), append([]string{script}, args...)...)
	cmd.Env = []string{"PATH=" + m.bin}
	return cmd
}

// policy is the file that keeps servers from being started while they are installed.
func (m *machine) policy() string { return filepath.Join(m.bin, "policy-rc.d") }

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
			m.program("apt-get", `case "$*" in install*) [ -x `+m.policy()+` ] || echo no policy >>`+m.log+`;; esac; case "$*" in *chromium*) exit 100;; *gcc*) for p in gcc make; do echo '#!/bin/sh' >`+m.bin+`/$p; chmod=/bin/chmod; $chmod 755 `+m.bin+`/$p; done;; esac`)
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
			if _, err := os.Stat(m.policy()); err == nil || strings.Contains(calls, "\nno policy\n") {
				t.Errorf("its policy: %v, called\n%s", err, calls)
			}
		})
	}
}

// An install that is stopped, as by ^C, leaves no policy behind: it would keep each server that
// is installed later from being started.
func TestAStoppedInstallLeavesNoPolicy(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			m := newMachine(t)
			m.program("id", "echo 0")
			at := filepath.Join(m.bin, "..", "at it")
			m.program("apt-get", `case "$*" in install*) echo >"`+at+`"; read -r _;; esac`)
			cmd := m.script("test.sh", "setup")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			in, err := cmd.StdinPipe() // never written to: apt-get waits
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(at); err == nil {
					break
				} else if time.Since(start) > 2*time.Minute {
					t.Fatal(err)
				}
			}
			if err := syscall.Kill(-cmd.Process.Pid, sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it says that it has installed all")
			}
			if _, err := os.Stat(m.policy()); err == nil {
				t.Error("its policy stays")
			}
		})
	}
}

// The README's first command says that it is at work before Go is, which may compile for minutes.
func TestTheRunCommandSpeaksFirst(t *testing.T) {
	m := newMachine(t)
	m.program("go", "echo go")
	out, err := m.script("run.sh").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "run.sh: ") || !strings.HasSuffix(string(out), "\ngo\n") {
		t.Errorf("%v, %q", err, out)
	}
	if got := m.calls(); got != "go run -v ./cmd/millrace bench --quick\n" {
		t.Errorf("called\n%s", got)
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
	if !strings.HasSuffix(string(ci), "/../test.sh\"\n") || !strings.Contains(string(readme), "\n    ./test.sh\n") || !strings.Contains(string(readme), "\n    ./run.sh\n") {
		t.Errorf("%s; the README's commands are others", ci)
	}
}
