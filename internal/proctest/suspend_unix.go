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

// Suspend stops a process, as SIGSTOP does, and waits until it stands still: on a busy machine
// its threads may run on for some milliseconds. SIGCONT has it go on. Where there is no /proc
// it does not wait.
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

// still tells whether each thread of the process is stopped.
func still(pid int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The state stands behind the name, which may hold anything.
		if rest := stat[bytes.LastIndexByte(stat, ')')+1:]; len(rest) > 1 && rest[1] != 'T' && rest[1] != 't' {
			return false
		}
	}
	return true
}
