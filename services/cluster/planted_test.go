//go:build unix

package cluster_test

import (
	"fmt"
	"regexp"
	"testing"

	"millrace/internal/proctest"
)

// plants are bugs that the histories must find when they are planted into the
// package: code that looks right, passes most tests, and gives one lock to two.
var plants = []proctest.Bug{
	{
		// Who hears nothing of a holder for a lease takes it for dead, without asking
		// the servers.
		Name: "deaf watch judged as death", File: "leases.go", Edits: []proctest.Edit{{
			Good: "\tkey, rev := procPrefix+name, p.rev\n\tl.mu.Unlock()\n",
			Bad: "\tkey, rev := procPrefix+name, p.rev\n" +
				"\tif p.buried = max(p.buried, k.rev+1); p.buried > 0 {\n\t\treturn nil\n\t}\n\tl.mu.Unlock()\n",
		}},
	}, {
		// The fencing token is a count of the process, not the sequence of the write.
		Name: "token from memory", File: "lockwork.go", Edits: []proctest.Edit{{
			Good: "\tl.mu.Unlock()\n\tservices.Deliver(it.o.On, func() { l.tell(it, token, err) }, gone)\n",
			Bad: "\tl.mu.Unlock()\n\tif token != 0 {\n\t\ttoken = uint64(l.c.expired.Add(1))\n\t}\n" +
				"\tservices.Deliver(it.o.On, func() { l.tell(it, token, err) }, gone)\n",
		}},
	}, {
		// A lock that was seen free is written whatever stands there by then.
		Name: "check before write", File: "lockwork.go", Edits: []proctest.Edit{{
			Good: "write{key: k.key, value: value, expect: int64(rev), room: true}",
			Bad:  "write{key: k.key, value: value, expect: min(int64(rev), 0) - 1, room: true}",
		}},
	},
}

// The code has moved on? Then the bugs move with it.
func TestPlantedBugsFitTheCode(t *testing.T) {
	for _, p := range plants {
		t.Run(p.Name, func(t *testing.T) { p.Text(t) })
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
	proctest.Find(t, plants, violation, "-test.run", "^TestHistoriesOfProcesses$", "-test.parallel", "4", "-test.timeout", "20m",
		"-histories", fmt.Sprint(runs), "-first", fmt.Sprint(*historyFirst))
}

// violation is what a history that failed says of locks or registers.
var violation = regexp.MustCompile(`(?m)^ +--- FAIL: TestHistoriesOfProcesses/seed=(\d+) .*\n(?: {8}.*\n)*? {8}histories_test\.go:\d+: ((?:locks: |\d+ calls on registers).*)$`)
