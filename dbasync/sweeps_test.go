package dbasync

import (
	"cmp"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dbasync/internal/pgfault"
)

var (
	only  = flag.String("exchanges", "", "sweep these exchanges only: names with commas between them")
	every = flag.Int("every", 1, "with -long: play every so many of the sweeps' trials, from one that chance picks")
)

func ofStartup(m pgfault.Message) bool {
	switch m.Type {
	case "StartupMessage", "ParameterStatus", "BackendKeyData":
		return true
	}
	return strings.HasPrefix(m.Type, "SASL") || strings.HasPrefix(m.Type, "Authentication")
}

// sample puts a trial of every kind of message and place first, those of a commit before
// all others, and leaves the rest to chance. It returns how many are of commits.
func sample(trials []trial) (must int) {
	rand.Shuffle(len(trials), func(i, j int) { trials[i], trials[j] = trials[j], trials[i] })
	type kind struct {
		ex, typ, text string
		where         pgfault.Where
	}
	seen := make(map[kind]int)
	type ranked struct {
		trial
		rank int
	}
	rs := make([]ranked, len(trials))
	for i, tr := range trials {
		k := kind{tr.ex.name, tr.at.Type, tr.at.Text, tr.fault.Where}
		rs[i] = ranked{tr, 1 + seen[k]}
		if seen[k] == 0 && ofCommit(tr.at) {
			rs[i].rank = 0
			must++
		}
		seen[k]++
	}
	slices.SortStableFunc(rs, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	for i := range rs {
		trials[i] = rs[i].trial
	}
	return must
}

func ofCommit(m pgfault.Message) bool {
	return (m.Type == "Query" || m.Type == "CommandComplete") && strings.EqualFold(m.Text, "commit")
}

// TestEveryMessageMayBeTheLast ends the connection before, within and after each message,
// by RST and by FIN, of every exchange and of the startup before it, in both directions:
// what callers were told holds. Without -long a sample of them, and of stalls.
func TestEveryMessageMayBeTheLast(t *testing.T) {
	srv := server(t)
	s := newSweep(t, srv)
	posts := make([]*post, 4)
	for i := range posts {
		posts[i] = newPost(t, srv.URL())
	}
	s.all(posts, "direct", []pgfault.Act{pgfault.Reset, pgfault.Finish}, 4*time.Second)
}

// TestEveryMessageMayStall stalls the connection at each message, in both directions, until
// callers have been told, or delays it. The short form is in TestEveryMessageMayBeTheLast.
func TestEveryMessageMayStall(t *testing.T) {
	if !*long {
		t.Skip("skipped: minutes long (-long)")
	}
	srv := server(t)
	s := newSweep(t, srv)
	posts := make([]*post, 24) // they wait most of the time
	for i := range posts {
		posts[i] = newPost(t, srv.URL())
	}
	s.all(posts, "stalled", []pgfault.Act{pgfault.Stall, pgfault.Delay}, 0)
}

// all sweeps all exchanges: in the long form everything, else what sample puts first, and
// more for as long as given, some of it as stalls.
func (s *sweep) all(posts []*post, label string, acts []pgfault.Act, short time.Duration) {
	s.t.Helper()
	found := make([][]trial, len(exchanges))
	work := make(chan int)
	var wg sync.WaitGroup
	for _, at := range posts {
		wg.Go(func() {
			for i := range work {
				ts, n := s.count(at, exchanges[i], acts)
				found[i] = ts
				if *long {
					s.t.Logf("%s: %s: %d messages up, %d down", label, exchanges[i].name, n[pgfault.Up], n[pgfault.Down])
				}
			}
		})
	}
	for i, ex := range exchanges {
		if *only == "" || slices.Contains(splitNames(*only), ex.name) {
			work <- i
		}
	}
	close(work)
	wg.Wait()
	trials := slices.Concat(found...)
	must, until := 0, time.Now().Add(short)
	if *long {
		trials = s.stride(trials)
		must = len(trials)
	} else {
		must = sample(trials)
		for i := 0; i < len(trials); i += 12 {
			trials[i].fault.Act = pgfault.Stall
		}
	}
	sum, plays, missed := s.run(posts, trials, must, until)
	s.report(label, sum, plays, missed)
}

// stride thins trials out as -every says.
func (s *sweep) stride(trials []trial) (kept []trial) {
	for i := rand.N(*every); i < len(trials); i += *every {
		kept = append(kept, trials[i])
	}
	return kept
}

func splitNames(s string) []string { return strings.Split(s, ",") }
