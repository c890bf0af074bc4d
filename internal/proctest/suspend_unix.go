//go:build unix

package proctest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Suspend stops a process with SIGSTOP and waits until it has stopped: on a busy machine its
// threads may run for some more milliseconds. Resume it with SIGCONT. Without /proc it does not
// wait.
func Suspend(tb testing.TB, p *os.Process) {
	tb.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); !still(p.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("process %d runs a minute after SIGSTOP", p.Pid)
		}
	}
}

// still reports whether all threads of the process are stopped.
func still(pid int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The state follows the name, which may contain any characters.
		if rest := stat[bytes.LastIndexByte(stat, ')')+1:]; len(rest) > 1 && rest[1] != 'T' && rest[1] != 't' {
			return false
		}
	}
	return true
}
