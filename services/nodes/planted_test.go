//go:build unix

package nodes_test

import (
	"fmt"
	"regexp"
	"testing"

	"millrace/internal/proctest"
)

// plants are bugs that the histories must find when they are planted into the package: what
// was heard at some time is taken for what is, and something is decided by it.
var plants = []proctest.Bug{
	{
		// Who has a user is what this node knows of him, and not what the store has.
		Name: "a binding from memory", File: "users.go", Edits: []proctest.Edit{{
			Good: "\te, err := n.cache.Users().Get(ctx, user)\n\tif errors.Is(err, services.ErrNotFound) {\n\t\treturn SessionID{}, 0, false, nil\n",
			Bad: "\tn.users.mu.Lock()\n\tb, ok := n.users.bound[user]\n\tn.users.mu.Unlock()\n\tif ok {\n\t\treturn n.ID(b.s), b.epoch, true, nil\n\t}\n" +
				"\te, err := n.cache.Users().Get(ctx, user)\n\tif errors.Is(err, services.ErrNotFound) {\n\t\treturn SessionID{}, 0, false, nil\n",
		}},
	}, {
		// A session that has ended takes its user out of the store, whoever has that by now.
		Name: "an unbind by what was known", File: "chores.go", Edits: []proctest.Edit{{
			Good: "\tid, err := sessionID(e.Value)\n\tepoch := cluster.Epoch(e.Revision)\n",
			Bad: "\tid, err := sessionID(e.Value)\n\tepoch := cluster.Epoch(e.Revision)\n" +
				"\tif b.s != nil && !open {\n\t\tid = u.n.ID(b.s)\n\t}\n",
		}},
	}, {
		// A home that has heard of no other takes itself for the home, however old that is.
		Name: "a home that does not look at its lease", File: "homes.go", Edits: []proctest.Edit{
			{Good: "if at := h.n.cache.Rooms().Holder(h.lock(key)); at.Alive {", Bad: "if at := h.n.cache.Rooms().Holder(h.lock(key)); at.Alive || at.Process == h.n.cache.Process() {"},
			{Good: "\treturn h.n.cache == nil || h.n.cache.Rooms().Held(h.lock(key), token)\n", Bad: "\treturn h.n.cache == nil || h.n.cache.Rooms().Holder(h.lock(key)).Token == token\n"},
			{Good: "OnLost: func() { _ = room.Close() },", Bad: "OnLost: func() {},"},
		},
	},
}

// The code has moved on? Then the bugs move with it.
func TestPlantedBugsFitTheCode(t *testing.T) {
	for _, p := range plants {
		t.Run(p.Name, func(t *testing.T) { p.Text(t) })
	}
}

// Each bug is planted into a copy of its file, and the histories are run on the package with
// it: 20, or as many as -histories says.
func TestHistoriesFindPlantedBugs(t *testing.T) {
	if !*long {
		t.Skip("builds the package and runs 20 histories for each bug: with -long")
	}
	runs := 20
	if *historySeeds > 0 {
		runs = *historySeeds
	}
	proctest.Find(t, plants, violation, "-test.run", "^TestHistoriesOfNodes$", "-test.parallel", "3", "-test.timeout", "20m",
		"-histories", fmt.Sprint(runs), "-first", fmt.Sprint(*historyFirst))
}

// violation is what a history that failed says.
var violation = regexp.MustCompile(`(?m)^ +--- FAIL: TestHistoriesOfNodes/seed=(\d+) .*\n(?: {8}.*\n)*? {8}histories_test\.go:\d+: history: (.*)$`)
