package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// State is the result of a check.
type State string

// The states.
const (
	OK      State = "ok"
	Warn    State = "warn"    // the server runs, but not as well as it could
	Fail    State = "fail"    // the server can't provide what Want says
	Unknown State = "unknown" // it can't be read
)

// Finding is the outcome of one check.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Found string `json:"found"`         // the present state
	Why   string `json:"why,omitempty"` // the consequence; of Warn and Fail
	Fix   string `json:"fix,omitempty"` // a command, or other instruction; of Warn and Fail
}

// Want is what the server must provide.
type Want struct {
	Conns  int   // concurrent connections
	Memory int64 // --memory-budget, in bytes
	Port   int   // to listen on
}

// otherFiles is how many files the engine keeps open besides connections, as in engine/files.go.
const otherFiles = 64

// memory returns the most memory that the process takes, in bytes: 5/4 of the budget, 4 KiB for
// each idle connection, and the program itself.
func (w Want) memory() int64 {
	return w.Memory + w.Memory/4 + int64(w.Conns)*4<<10 + 20<<20
}

// Run runs all checks on the machine whose file system is at root: / for the local one.
func Run(root string, w Want) []Finding {
	m := &machine{root: root}
	var all []Finding
	for _, check := range []func(*machine, Want) Finding{
		openFiles, allFiles, backlog, portRange, tcpMemory, connectionTracking,
		memory, memoryCgroup, overcommit, cpuCgroup, tasks,
		kernel, synCookies, hugePages, governor, clock, drops,
	} {
		if f := check(m, w); f.Check != "" {
			all = append(all, f)
		}
	}
	return all
}

// Worst returns the worst state of all; Unknown counts as OK.
func Worst(all []Finding) State {
	worst := OK
	for _, f := range all {
		if f.State == Fail || f.State == Warn && worst == OK {
			worst = f.State
		}
	}
	return worst
}

// machine reads the files of a machine.
type machine struct{ root string }

// text returns a file's content without surrounding white space; false if it can't be read.
func (m *machine) text(path string) (string, bool) {
	b, err := os.ReadFile(filepath.Join(m.root, path))
	s := strings.TrimSpace(string(b))
	return s, err == nil && s != ""
}

// number returns the i-th number in a file.
func (m *machine) number(path string, i int) (int64, bool) {
	s, ok := m.text(path)
	f := strings.Fields(s)
	if !ok || i >= len(f) {
		return 0, false
	}
	n, err := strconv.ParseInt(f[i], 10, 64)
	return n, err == nil
}

// glob returns the files that match a pattern.
func (m *machine) glob(pattern string) []string {
	names, err := filepath.Glob(filepath.Join(m.root, pattern))
	if err != nil {
		return nil
	}
	for i, name := range names {
		names[i] = strings.TrimPrefix(name, filepath.Clean(m.root))
	}
	return names
}

func ok(check, format string, args ...any) Finding {
	return Finding{Check: check, State: OK, Found: fmt.Sprintf(format, args...)}
}

func unknown(check, path string) Finding {
	return Finding{Check: check, State: Unknown, Found: path + " can't be read"}
}

// bytes formats a number of bytes.
func bytes(n int64) string {
	for _, u := range []struct {
		name string
		n    int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.n {
			return strconv.FormatFloat(float64(n)/float64(u.n), 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}

// sysctl returns the command that sets a kernel parameter.
func sysctl(name string, value any) string {
	return fmt.Sprintf("sysctl -w %s=%v", name, value)
}
