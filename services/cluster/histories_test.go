//go:build unix

package cluster_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"millrace/internal/proctest"
)

var (
	historySeeds = flag.Int("histories", 0, "how many histories of processes are run; 0 = 3, or 200 with -long")
	historyFirst = flag.Uint64("first", 0, "the seed of the first history")
)

const historyLease = 600 * time.Millisecond

// scene is a running history: a server, and members that it serves.
type scene struct {
	*proctest.Scene[note]
	dir string // of the server
}

func (s *scene) join() {
	s.Helper()
	who := s.Join(len(s.Procs), "member")
	s.Until("a member is ready", func(n note) bool { return n.Who == who && n.Kind == "ready" })
}

// fault makes one and ends it.
func (s *scene) fault(r *rand.Rand) {
	who := r.IntN(len(s.Procs))
	p, m := s.Proxy(who), s.Procs[who]
	length := time.Duration(r.IntN(1200)) * time.Millisecond
	switch fault := r.IntN(11); fault {
	default: // 0 to 4
		s.FaultOfLink(who, fault, time.Duration(r.IntN(100))*time.Millisecond)
	case 5:
		s.Restart(length / 4)
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
		defer s.deafen(len(s.Procs))()
		length += historyLease
	case 10: // some don't, while another fault comes and goes
		defer s.deafen(1 + r.IntN(len(s.Procs)))()
		s.fault(r)
		length += historyLease / 2
	}
	time.Sleep(length) // how long the fault lasts
	p.Heal()
}

// deafen has the watches of the first so many hear nothing until the returned function
// is called, or another fault of theirs ends.
func (s *scene) deafen(many int) (end func()) {
	for who := range many {
		s.Proxy(who).Drop(proctest.Watched)
	}
	return func() {
		for who := range many {
			s.Proxy(who).Drop(nil)
		}
	}
}

// history runs three members under faults chosen by the seed. At its end the
// server is killed and its data are, by turns, left, replaced by an older copy,
// or without the lock stream.
func history(t *testing.T, seed uint64, length time.Duration) []note {
	r := rand.New(rand.NewPCG(seed, 2))
	s := &scene{dir: t.TempDir()}
	s.Scene = proctest.NewScene(t, historyLease, func(n *note, who int) { n.Who = who }, "server", "NATS_DIR="+s.dir)
	for range 3 {
		s.join()
	}
	data, old := filepath.Join(s.dir, "data"), filepath.Join(t.TempDir(), "old")
	if seed%3 == 1 {
		s.Server.Kill()
		if err := os.CopyFS(old, os.DirFS(data)); err != nil {
			t.Fatal(err)
		}
		s.Serve()
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.fault(r)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // between faults
	}
	if seed%3 != 0 {
		s.lose(seed%3 == 1, data, old)
	}
	return s.End()
}

// lose has the store go back to an older copy, or lose its lock stream, and waits
// until all who knew it refuse it.
func (s *scene) lose(older bool, data, old string) {
	healed := proctest.Monotonic()
	for who := range s.Procs { // it has seen the store as it is now
		s.Until("a call after the faults", func(n note) bool {
			return n.Who == who && n.Kind == "return" && n.To > healed && n.Out.OK
		})
	}
	members := len(s.Procs)
	s.Server.Kill()
	if older {
		if err := os.RemoveAll(data); err != nil {
			s.Fatal(err)
		}
		if err := os.Rename(old, data); err != nil {
			s.Fatal(err)
		}
		s.Serve()
	} else {
		if err := os.RemoveAll(filepath.Join(data, "jetstream", "$G", "streams", "KV_h_locks")); err != nil {
			s.Fatal(err)
		}
		s.Serve()
		s.join() // who makes it anew
		s.Until("the newcomer has the lock", func(n note) bool { return n.Who == members && n.Kind == "given" })
	}
	for who := range members {
		s.Until(fmt.Sprint("member ", who, " refuses the store"), func(n note) bool { return n.Who == who && n.Kind == "refused" })
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
			notes := history(t, seed, 4*time.Second)
			if err := checkLocks(notes); err != nil {
				t.Errorf("locks: %v", err)
			}
			calls, err := checkRegisters(notes)
			if err != nil {
				t.Error(err)
			}
			count := map[string]int{}
			for _, n := range notes {
				count[n.Kind]++
			}
			if count["given"] < 2 || calls < 20 {
				t.Errorf("the lock was given %d times, %d calls: too few to tell anything", count["given"], calls)
			}
			t.Logf("%d calls, %v", calls, count)
		})
	}
}
