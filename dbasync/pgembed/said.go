package pgembed

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

var (
	stamp = regexp.MustCompile(`^\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] `) // time and process
	fault = regexp.MustCompile(`^(?:.*: )?(?:ERROR|FATAL|PANIC|error):\s+`)
	more  = regexp.MustCompile(`^(?:.*: )?(?:DETAIL|HINT|detail|hint):\s+`)
)

// oneLine is what PostgreSQL's programs said, in one line: the last fault, with its detail
// and hint; the last lines where there is no fault.
func oneLine(said []byte) string {
	var last []string
	found := false
	for _, line := range strings.Split(string(said), "\n") {
		line = strings.TrimSpace(stamp.ReplaceAllString(line, ""))
		switch {
		case line == "":
		case fault.MatchString(line):
			last, found = []string{fault.ReplaceAllString(line, "")}, true
		case !found:
			last = append(last[max(0, len(last)-2):], line)
		case more.MatchString(line):
			last = append(last, more.ReplaceAllString(line, ""))
		}
	}
	return strings.Join(last, "; ")
}

// runsIn returns the process of the server that uses a data directory, 0 where there is
// none. A file that was left over may name a process that is something else by now.
func runsIn(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 || pid == os.Getpid() {
		return 0
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err == nil {
		if strings.HasPrefix(string(name), "postgres") {
			return pid
		}
		return 0
	}
	if _, err := os.Stat("/proc/self/comm"); err == nil {
		return 0 // it has ended
	}
	p, err := os.FindProcess(pid)
	if err != nil || p.Signal(syscall.Signal(0)) != nil {
		return 0
	}
	return pid
}
