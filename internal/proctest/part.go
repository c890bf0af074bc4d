package proctest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
)

// roleEnv is the variable with the role of a process of a test.
const roleEnv = "MILLRACE_TEST_ROLE"

var roles = map[string]func(){}

// Role registers the function of a role. It is called from init.
func Role(name string, run func()) { roles[name] = run }

// Play runs this process's role, if it has one, and reports whether it had. Call it first in
// TestMain.
func Play() bool {
	run := roles[os.Getenv(roleEnv)]
	if run != nil {
		run()
	}
	return run != nil
}

// Part is another process of a test.
type Part struct {
	Cmd *exec.Cmd
	In  io.WriteCloser // its stdin
	Out *bufio.Reader  // its stdout
}

// Start starts a process, with additional environment variables. It ends with the test.
func Start(tb testing.TB, role string, env ...string) *Part {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), env...), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &Part{Cmd: cmd, In: in, Out: bufio.NewReader(out)}
	tb.Cleanup(p.Kill)
	return p
}

// Kill kills the process with SIGKILL, and waits for its end. It may be called twice.
func (p *Part) Kill() {
	_ = p.Cmd.Process.Kill()
	_ = p.Cmd.Wait()
}
