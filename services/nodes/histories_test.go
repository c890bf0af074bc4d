//go:build unix

package nodes_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/internal/proctest"
)

var (
	historySeeds = flag.Int("histories", 0, "how many histories of nodes are run; 0 = 2, or 100 with -long")
	historyFirst = flag.Uint64("first", 0, "the seed of the first history")
)

const historyLease = 600 * time.Millisecond

// scene is a running history.
type scene struct {
	testing.TB
	dir, url string // of the NATS server
	nats     *proctest.Part
	nodes    []*proctest.Part // that live
	proxies  []*faultproxy.Proxy
	started  int

	reading sync.WaitGroup
	mu      sync.Mutex
	notes   []noted // guarded by mu
}

// serve starts the NATS server, at the port that the nodes know: somebody else may have that
// for a moment.
func (s *scene) serve() {
	s.Helper()
	port := ""
	if u, err := url.Parse(s.url); err == nil {
		port = u.Port()
	}
	for end := time.Now().Add(time.Minute); ; {
		s.nats = proctest.Start(s, "nats", "NATS_DIR="+s.dir, "NATS_PORT="+port)
		line, err := s.nats.Out.ReadString('\n')
		if err == nil && strings.HasPrefix(line, "nats://") {
			s.url = strings.TrimSpace(line)
			return
		}
		if time.Now().After(end) {
			s.Fatalf("NATS server: %q, %v", line, err)
		}
		s.nats.Kill()
	}
}

// join starts a node in the place of one that has gone, or one more.
func (s *scene) join(place int) {
	s.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.Fatal(err)
	}
	if place == len(s.proxies) {
		proxy := faultproxy.New(s, u.Host)
		proxy.Messages(proctest.NATSMessage)
		s.proxies, s.nodes = append(s.proxies, proxy), append(s.nodes, nil)
	}
	u.Host = s.proxies[place].Addr()
	who := s.started
	s.started++
	p := proctest.Start(s, "node", "NODE_URL="+u.String(), "NODE_LEASE="+historyLease.String(), fmt.Sprint("NODE_NAME=n", who))
	s.nodes[place] = p
	s.reading.Go(func() {
		for in := json.NewDecoder(p.Out); ; {
			var n noted
			if in.Decode(&n) != nil {
				return // it has ended
			}
			n.Who = who
			s.mu.Lock()
			s.notes = append(s.notes, n)
			s.mu.Unlock()
		}
	})
	eventually(s, "a node is ready", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.notes, func(n noted) bool { return n.Who == who && n.Kind == "ready" })
	})
}

// fault makes one and ends it.
func (s *scene) fault(r *rand.Rand) {
	place := r.IntN(len(s.nodes))
	p, node := s.proxies[place], s.nodes[place]
	length := time.Duration(r.IntN(1200)) * time.Millisecond
	switch r.IntN(11) {
	case 0:
		p.Cut()
	case 1:
		p.Stall(faultproxy.Both)
	case 2:
		p.Stall(faultproxy.Down) // half open
	case 3:
		p.Stall(faultproxy.Up)
	case 4:
		p.Delay(time.Duration(r.IntN(100)) * time.Millisecond)
	case 5:
		s.nats.Kill()
		time.Sleep(length / 4) // how long nobody is there
		s.serve()
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
func history(t *testing.T, seed uint64, length time.Duration) *scene {
	r := rand.New(rand.NewPCG(seed, 3))
	s := &scene{TB: t, dir: t.TempDir()}
	s.serve()
	for i := range 3 {
		s.join(i)
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.fault(r)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // between faults
	}
	for _, n := range s.nodes {
		_ = n.In.Close()
	}
	s.reading.Wait()
	return s
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
			s := history(t, seed, length)
			calls, err := checkHistory(s.notes)
			if err != nil {
				t.Errorf("history: %v", err)
			}
			count := map[string]int{}
			for _, n := range s.notes {
				count[n.Kind+n.In.Call]++
			}
			if calls < least || count["got"] < least/10 || count["ran"] < least/4 || count["callbind"] < least/10 {
				t.Errorf("%d calls, %v: too few to tell anything", calls, count)
			}
			t.Logf("%d calls, %v", calls, count)
		})
	}
}
