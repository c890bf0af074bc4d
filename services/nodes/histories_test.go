//go:build unix

package nodes_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"millrace/internal/proctest"
)

var (
	historySeeds = flag.Int("histories", 0, "how many histories of nodes are run; 0 = 2, or 100 with -long")
	historyFirst = flag.Uint64("first", 0, "the seed of the first history")
)

const historyLease = 600 * time.Millisecond

// scene is a running history: a NATS server, and nodes.
type scene struct {
	*proctest.Scene[noted]
	names int // given so far
}

// join starts a node in the place of one that has gone, or one more.
func (s *scene) join(place int) {
	s.Helper()
	who := s.Join(place, "node", fmt.Sprint("NODE_NAME=n", s.names))
	s.names++
	s.Until("a node is ready", func(n noted) bool { return n.Who == who && n.Kind == "ready" })
}

// fault makes one and ends it.
func (s *scene) fault(r *rand.Rand) {
	place := r.IntN(len(s.Procs))
	p, node := s.Proxy(place), s.Procs[place]
	length := time.Duration(r.IntN(1200)) * time.Millisecond
	switch fault := r.IntN(11); fault {
	default: // 0 to 4
		s.FaultOfLink(place, fault, time.Duration(r.IntN(100))*time.Millisecond)
	case 5:
		s.Restart(length / 4)
		return
	case 6, 7: // longer than its lease
		_ = node.Cmd.Process.Signal(syscall.SIGSTOP)
		defer func() { _ = node.Cmd.Process.Signal(syscall.SIGCONT) }()
		length += historyLease
	case 8: // it hears nothing of the others' locks, who are well
		p.Drop(proctest.Watched)
		length += historyLease
	case 9:
		node.Kill()
		p.Heal() // it may be cut off, and the next one is not to wait for that
		s.join(place)
		return
	case 10: // one is cut off for longer than its lease, while another fault comes and goes
		p.Cut()
		s.fault(r)
		length = historyLease
	}
	time.Sleep(length) // how long the fault lasts
	p.Heal()
}

// history runs three nodes under faults chosen by the seed.
func history(t *testing.T, seed uint64, length time.Duration) []noted {
	r := rand.New(rand.NewPCG(seed, 3))
	s := &scene{Scene: proctest.NewScene(t, historyLease, func(n *noted, who int) { n.Who = who }, "nats", "NATS_DIR="+t.TempDir())}
	for i := range 3 {
		s.join(i)
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.fault(r)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // between faults
	}
	return s.End()
}

// Users who log in on three nodes, are sent to and looked up, and counters in rooms, while
// nodes are cut off, half open, slow, deaf to changes, suspended for longer than their leases
// or killed, and the NATS server is killed and started.
func TestHistoriesOfNodes(t *testing.T) {
	runs := *historySeeds
	if runs == 0 {
		if runs = 2; *long {
			runs = 100
		}
	}
	length, least := 4*time.Second, 40
	if !*long && *historySeeds == 0 {
		length, least = length/2, 4
	}
	for i := range uint64(runs) {
		seed := *historyFirst + i
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			notes := history(t, seed, length)
			calls, err := checkHistory(notes)
			if err != nil {
				t.Errorf("history: %v", err)
			}
			count := map[string]int{}
			for _, n := range notes {
				count[n.Kind+n.In.Call]++
			}
			if calls < least || count["got"] < least/10 || count["ran"] < least/4 || count["callbind"] < least/10 {
				t.Errorf("%d calls, %v: too few to tell anything", calls, count)
			}
			t.Logf("%d calls, %v", calls, count)
		})
	}
}
