//go:build unix

package cluster_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
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
	historySeeds = flag.Int("histories", 0, "how many histories of processes are run; 0 = 3, or 200 with -long")
	historyFirst = flag.Uint64("first", 0, "the seed of the first history")
)

const historyLease = 600 * time.Millisecond

// scene is a running history.
type scene struct {
	testing.TB
	dir, url string // of the server
	server   *proctest.Part
	members  []*proctest.Part
	proxies  []*faultproxy.Proxy

	reading sync.WaitGroup
	mu      sync.Mutex
	notes   []note // guarded by mu
}

// serve starts the server, at the port that the members know: somebody else may
// have that for a moment.
func (s *scene) serve() {
	s.Helper()
	port := ""
	if u, err := url.Parse(s.url); err == nil {
		port = u.Port()
	}
	for end := time.Now().Add(time.Minute); ; {
		s.server = proctest.Start(s, "server", "MILLRACE_CLUSTER_DIR="+s.dir, "MILLRACE_CLUSTER_PORT="+port)
		line, err := s.server.Out.ReadString('\n')
		if err == nil && strings.HasPrefix(line, "nats://") {
			s.url = strings.TrimSpace(line)
			return
		}
		if time.Now().After(end) {
			s.Fatalf("server: %q, %v", line, err)
		}
		s.server.Kill()
	}
}

func (s *scene) join() {
	s.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.Fatal(err)
	}
	proxy := faultproxy.New(s, u.Host)
	proxy.Messages(proctest.NATSMessage)
	u.Host = proxy.Addr()
	who := len(s.members)
	p := proctest.Start(s, "member", "MILLRACE_CLUSTER_URL="+u.String(),
		"MILLRACE_CLUSTER_LEASE="+historyLease.String())
	s.members, s.proxies = append(s.members, p), append(s.proxies, proxy)
	s.reading.Go(func() {
		for in := json.NewDecoder(p.Out); ; {
			n := note{Who: who}
			if in.Decode(&n) != nil {
				return // it has ended
			}
			n.Who = who
			s.mu.Lock()
			s.notes = append(s.notes, n)
			s.mu.Unlock()
		}
	})
	s.until("a member is ready", func(n note) bool { return n.Who == who && n.Kind == "ready" })
}

// until waits for a note.
func (s *scene) until(what string, ok func(note) bool) {
	s.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		found := slices.ContainsFunc(s.notes, ok)
		s.mu.Unlock()
		if found {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("not within a minute: %s", what)
		}
	}
}

// fault makes one and ends it.
func (s *scene) fault(r *rand.Rand) {
	who := r.IntN(len(s.members))
	p, m := s.proxies[who], s.members[who]
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
		s.server.Kill()
		time.Sleep(length / 4) // how long nobody is there
		s.serve()
		return
	case 6: // longer than its lease
		_ = m.Cmd.Process.Signal(syscall.SIGSTOP)
		defer func() { _ = m.Cmd.Process.Signal(syscall.SIGCONT) }()
		length += historyLease
	case 7:
		fmt.Fprintln(m.In, "step", []time.Duration{time.Hour, -time.Hour, 3 * time.Second, -3 * time.Second}[r.IntN(4)])
	case 8: // one hears nothing of the others, who are well
		p.Drop(proctest.Watched)
		length += historyLease
	case 9: // all renew their leases, and nobody hears of it
		defer s.deafen(s.proxies)()
		length += historyLease
	case 10: // some don't, while another fault comes and goes
		defer s.deafen(s.proxies[:1+r.IntN(len(s.proxies))])()
		s.fault(r)
		length += historyLease / 2
	}
	time.Sleep(length) // how long the fault lasts
	p.Heal()
}

// deafen has the watches behind the proxies hear nothing until the returned
// function is called, or another fault of theirs ends.
func (s *scene) deafen(proxies []*faultproxy.Proxy) (end func()) {
	for _, p := range proxies {
		p.Drop(proctest.Watched)
	}
	return func() {
		for _, p := range proxies {
			p.Drop(nil)
		}
	}
}

// history runs three members under faults chosen by the seed. At its end the
// server is killed and its data are, by turns, left, replaced by an older copy,
// or without the lock stream.
func history(t *testing.T, seed uint64, length time.Duration) *scene {
	r := rand.New(rand.NewPCG(seed, 2))
	s := &scene{TB: t, dir: t.TempDir()}
	s.serve()
	for range 3 {
		s.join()
	}
	data, old := filepath.Join(s.dir, "data"), filepath.Join(t.TempDir(), "old")
	if seed%3 == 1 {
		s.server.Kill()
		if err := os.CopyFS(old, os.DirFS(data)); err != nil {
			t.Fatal(err)
		}
		s.serve()
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.fault(r)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // between faults
	}
	if seed%3 != 0 {
		s.lose(seed%3 == 1, data, old)
	}
	for _, m := range s.members {
		_ = m.In.Close()
	}
	s.reading.Wait()
	return s
}

// lose has the store go back to an older copy, or lose its lock stream, and waits
// until all who knew it refuse it.
func (s *scene) lose(older bool, data, old string) {
	healed := proctest.Monotonic()
	for who := range s.members { // it has seen the store as it is now
		s.until("a call after the faults", func(n note) bool {
			return n.Who == who && n.Kind == "return" && n.To > healed && n.Out.OK
		})
	}
	members := len(s.members)
	s.server.Kill()
	if older {
		if err := os.RemoveAll(data); err != nil {
			s.Fatal(err)
		}
		if err := os.Rename(old, data); err != nil {
			s.Fatal(err)
		}
		s.serve()
	} else {
		if err := os.RemoveAll(filepath.Join(data, "jetstream", "$G", "streams", "KV_h_locks")); err != nil {
			s.Fatal(err)
		}
		s.serve()
		s.join() // who makes it anew
		s.until("the newcomer has the lock", func(n note) bool { return n.Who == members && n.Kind == "given" })
	}
	for who := range members {
		s.until(fmt.Sprint("member ", who, " refuses the store"), func(n note) bool { return n.Who == who && n.Kind == "refused" })
	}
}

// Cut, stalled, half open, slow; watches that hear nothing for longer than a lease
// while all that is asked is answered; the server killed and started; members
// suspended for longer than their leases, their wall clocks stepped; the store an
// older copy of itself or without its lock stream.
func TestHistoriesOfProcesses(t *testing.T) {
	runs := *historySeeds
	if runs == 0 {
		if runs = 3; *long {
			runs = 200
		}
	}
	for i := range uint64(runs) {
		seed := *historyFirst + i
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			s := history(t, seed, 4*time.Second)
			if err := checkLocks(s.notes); err != nil {
				t.Errorf("locks: %v", err)
			}
			calls, err := checkRegisters(s.notes)
			if err != nil {
				t.Error(err)
			}
			count := map[string]int{}
			for _, n := range s.notes {
				count[n.Kind]++
			}
			if count["given"] < 2 || calls < 20 {
				t.Errorf("the lock was given %d times, %d calls: too few to tell anything", count["given"], calls)
			}
			t.Logf("%d calls, %v", calls, count)
		})
	}
}
