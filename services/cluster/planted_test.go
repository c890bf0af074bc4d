//go:build unix

package cluster_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// plants are bugs that the histories must find when they are planted into the
// package: code that looks right, passes most tests, and gives one lock to two.
var plants = []struct{ name, file, good, bad string }{
	{
		// Who hears nothing of a holder for a lease takes it for dead, without asking
		// the servers.
		name: "deaf watch judged as death", file: "leases.go",
		good: "\tkey, rev := procPrefix+name, p.rev\n\tl.mu.Unlock()\n",
		bad: "\tkey, rev := procPrefix+name, p.rev\n" +
			"\tif p.buried = max(p.buried, k.rev+1); p.buried > 0 {\n\t\treturn nil\n\t}\n\tl.mu.Unlock()\n",
	}, {
		// The fencing token is a count of the process, not the sequence of the write.
		name: "token from memory", file: "lockwork.go",
		good: "\tl.mu.Unlock()\n\tservices.Deliver(it.o.On, func() { l.tell(it, token, err) }, gone)\n",
		bad: "\tl.mu.Unlock()\n\tif token != 0 {\n\t\ttoken = uint64(l.c.expired.Add(1))\n\t}\n" +
			"\tservices.Deliver(it.o.On, func() { l.tell(it, token, err) }, gone)\n",
	}, {
		// A lock that was seen free is written whatever stands there by then.
		name: "check before write", file: "lockwork.go",
		good: "write{key: k.key, value: value, expect: int64(rev), room: true}",
		bad:  "write{key: k.key, value: value, expect: min(int64(rev), 0) - 1, room: true}",
	},
}

// planted returns the file with the bug in place of the good code.
func planted(tb testing.TB, file, good, bad string) string {
	tb.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	if n := strings.Count(string(b), good); n != 1 {
		tb.Fatalf("%s: the code that the bug replaces stands there %d times, want once:\n%s", file, n, good)
	}
	return strings.Replace(string(b), good, bad, 1)
}

// The code has moved on? Then the bugs move with it.
func TestPlantedBugsFitTheCode(t *testing.T) {
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) { planted(t, p.file, p.good, p.bad) })
	}
}

// Each bug is planted into a copy of its file, and the histories are run on the
// package with it: 20, or as many as -histories says.
func TestHistoriesFindPlantedBugs(t *testing.T) {
	if !*long {
		t.Skip("builds the package and runs 20 histories for each bug: with -long")
	}
	runs := 20
	if *historySeeds > 0 {
		runs = *historySeeds
	}
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			log := histories(t, runs, p.file, planted(t, p.file, p.good, p.bad))
			found := violation.FindAllStringSubmatch(log, -1)
			if len(found) == 0 {
				t.Fatalf("found in none of %d histories:\n%s", runs, log)
			}
			t.Logf("found in %d of %d histories", len(found), runs)
			for _, f := range found {
				t.Logf("seed %s: %s", f[1], f[2])
			}
		})
	}
}

// violation is what a history that failed says of locks or registers.
var violation = regexp.MustCompile(`(?m)^ +--- FAIL: TestHistoriesOfProcesses/seed=(\d+) .*\n(?: {8}.*\n)*? {8}histories_test\.go:\d+: ((?:locks: |\d+ calls on registers).*)$`)

// histories runs them on the package with another text in one of its files, and
// returns what they print.
func histories(tb testing.TB, runs int, file, text string) string {
	tb.Helper()
	dir := tb.TempDir()
	here, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	copied, overlay, binary := filepath.Join(dir, file), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "histories.test")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, file): copied}})
	if err != nil {
		tb.Fatal(err)
	}
	for name, b := range map[string][]byte{copied: []byte(text), overlay: replace} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	out, _ := exec.Command(binary, "-test.run", "^TestHistoriesOfProcesses$", "-test.parallel", "4", "-test.timeout", "20m",
		"-histories", fmt.Sprint(runs), "-first", fmt.Sprint(*historyFirst)).CombinedOutput()
	return string(out)
}
