package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// State is what a check has found.
type State string

// The states.
const (
	OK      State = "ok"
	Warn    State = "warn"    // the server runs, worse than it could
	Fail    State = "fail"    // the server can't do what Want says
	Unknown State = "unknown" // it can't be read
)

// Finding is the outcome of one check.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Found string `json:"found"`         // what is there
	Why   string `json:"why,omitempty"` // what follows from it; of Warn and Fail
	Fix   string `json:"fix,omitempty"` // a command, or what to do; of Warn and Fail
}

// Want is what the server is to do.
type Want struct {
	Conns  int   // connections at a time
	Memory int64 // --memory-budget, in bytes
	Port   int   // that it listens on
}

// The engine keeps files open beside its connections, as engine/files.go says.
const otherFiles = 64

// memory is what the process takes at most, in bytes: the budget and a quarter, 4 KiB for an
// idle connection, and the program itself.
func (w Want) memory() int64 {
	return w.Memory + w.Memory/4 + int64(w.Conns)*4<<10 + 20<<20
}

// Run makes all checks of the machine whose file system is at root: / for this one.
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

// Worst is the worst state of all; Unknown counts as OK.
func Worst(all []Finding) State {
	worst := OK
	for _, f := range all {
		if f.State == Fail || f.State == Warn && worst == OK {
			worst = f.State
		}
	}
	return worst
}

// machine is the files of one.
type machine struct{ root string }

// text is a file's content without white space around it; false where there is none.
func (m *machine) text(path string) (string, bool) {
	b, err := os.ReadFile(filepath.Join(m.root, path))
	s := strings.TrimSpace(string(b))
	return s, err == nil && s != ""
}

// number is that of a file that holds one, or the i-th of several.
func (m *machine) number(path string, i int) (int64, bool) {
	s, ok := m.text(path)
	f := strings.Fields(s)
	if !ok || i >= len(f) {
		return 0, false
	}
	n, err := strconv.ParseInt(f[i], 10, 64)
	return n, err == nil
}

// glob are the files that fit a pattern.
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

// bytes writes a number of bytes for people.
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

// sysctl is the command that sets one.
func sysctl(name string, value any) string {
	return fmt.Sprintf("sysctl -w %s=%v", name, value)
}
