//go:build linux

package bench

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func findPeers(t *testing.T) *Peers {
	t.Helper()
	p, err := FindPeers("peers", peersBin)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// behind are the doors that a peer has; those with a plain address have it beside them.
var behind = map[string][]string{
	"std": {doorTLS}, "nbio": {doorTLS, doorWS}, "gws": {doorWS}, "gobwas": {doorWS}, "coder": {doorWS}, "asio-tls": {doorTLS},
}

// casesOf are what a peer must serve.
func casesOf(name string) (out []string) {
	if !slices.Contains([]string{"gws", "gobwas", "coder", "asio-tls"}, name) {
		out = []string{"echo/20x7/100", "echo/5x3/20KiB", "broadcast/20x3", "churn/4"}
		if name == "netty" || name == "erlang" {
			out = out[:3] // they take a while to start
		}
	}
	if name == natsPeer {
		return []string{"echo/20x7/100", "cluster-call/9x3/n3", "cluster-group/9x2/g9/n3", "cluster-user/9x2/n2", "cluster-bind/4x3/n2", "room/9x3/n2"}
	}
	for _, d := range behind[name] {
		out = append(out, d+"-echo/20x7/100", d+"-echo/5x3/20KiB", d+"-broadcast/20x3")
	}
	return out
}

func TestEveryPeerSpeaksTheFrame(t *testing.T) {
	peers := findPeers(t)
	_, _ = peers.Target(t.Context(), "gnet") // builds those in Go; what is wrong is seen again below
	built := make(chan struct{})             // g++ takes its time: meanwhile the others are tested
	go func() {
		defer close(built)
		for name := range cppPeers {
			_, _ = peers.Target(t.Context(), name) // what is wrong is seen again below
		}
	}()
	t.Cleanup(func() { <-built })
	names := append(PeerNames(), plantedPeers...)
	slices.SortStableFunc(names, func(a, b string) int {
		_, first := cppPeers[a]
		_, second := cppPeers[b]
		switch {
		case first == second:
			return 0
		case first:
			return 1
		}
		return -1
	})
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, cpp := cppPeers[name]; cpp {
				<-built
			}
			target, err := peers.Target(t.Context(), name)
			if err != nil {
				_, no := exec.LookPath("g++")
				missing := no != nil || name == "netty" || name == "erlang" || strings.HasPrefix(name, "asio") && (strings.Contains(err.Error(), "boost") || strings.Contains(err.Error(), "openssl"))
				if missing && os.Getenv("CI") == "" { // test.sh installs them
					t.Skip(err)
				}
				t.Fatal(err)
			}
			for _, spec := range casesOf(name) {
				w, _ := ParseWorkload(spec)
				window := 60 * time.Millisecond
				if w.Kind == Churn {
					window *= 5 // connections take their time on a busy machine
				}
				r := measureShortly(t, target, w, timing{20 * time.Millisecond, window}, 1)
				if name == "evio" && w.Kind == Broadcast && r.Skipped != "" {
					continue
				}
				if r.Error != "" || r.Skipped != "" || r.CPU == nil {
					t.Errorf("%s: error %q, skipped %q", spec, r.Error, r.Skipped)
				}
			}
		})
	}
}

func TestPeersAreFoundOrTheReasonIsClear(t *testing.T) {
	if _, err := FindPeers(t.TempDir(), ""); err == nil {
		t.Error("an empty folder passed for the peers")
	}
	t.Chdir(t.TempDir())
	if _, err := FindPeers("", ""); err == nil || !strings.Contains(err.Error(), "checkout") {
		t.Errorf("got %v, want a word on the checkout", err)
	}
	p := &Peers{dir: ".", bin: t.TempDir()}
	if _, err := p.Target(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "gnet-castbatch") {
		t.Errorf("got %v, want the names there are", err)
	}
}

// TestAPlantedRegressionIsSeen: a server that writes each frame by itself against the one that
// writes a batch, and the verdict that CI would act on.
func TestAPlantedRegressionIsSeen(t *testing.T) {
	peers := findPeers(t)
	good, err := peers.Target(t.Context(), "gnet")
	if err != nil {
		t.Fatal(err)
	}
	bad, err := peers.Target(t.Context(), "gnet-each")
	if err != nil {
		t.Fatal(err)
	}
	var out *Comparison
	for window := 200 * time.Millisecond; window <= 2*time.Second; window *= 3 { // longer where the machine was busy
		res := runSuite(t, Config{
			Targets: []Target{good, bad}, Cases: mustParse("echo/50x32"), Reps: 4, Window: window, Warm: 50 * time.Millisecond,
		})
		if out, err = Compare(res, res, CompareConfig{Target: "gnet", TargetB: "gnet-each"}); err != nil {
			t.Fatal(err)
		}
		if out.Regressed() && out.Changes[0].Ratio.Median >= 3 {
			break
		}
	}
	if !out.Regressed() || out.Changes[0].Ratio.Median < 3 {
		t.Errorf("got %+v, want a cost of several times", out.Changes[0])
	}
	t.Logf("x%.1f, p %.2g", out.Changes[0].Ratio.Median, out.Changes[0].P)
}

// runSuite runs it, and with longer windows where the machine stood still for all of one.
func runSuite(t *testing.T, cfg Config) *Results {
	t.Helper()
	for tries := 0; ; tries++ {
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(res.Runs, func(r Run) bool { return r.Error != "" })
		if i < 0 {
			return res
		}
		r := res.Runs[i]
		if tries == 3 || !strings.Contains(r.Error, "no message in ") {
			t.Fatalf("%s of %s: %s", r.Case, r.Target, r.Error)
		}
		t.Log(r.Error)
		cfg.Window *= 4
	}
}

// TestALockDuringWriteIsSeen plants a smaller regression. It needs many runs: the lock costs a fifth.
func TestALockDuringWriteIsSeen(t *testing.T) {
	if !*long {
		t.Skip("measures for a minute: -long")
	}
	peers := findPeers(t)
	var targets []Target
	for _, name := range []string{"std", "std-lock"} {
		target, err := peers.Target(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, target)
	}
	res := runSuite(t, Config{Targets: targets, Cases: mustParse("echo/1000x1 echo/1000x1/4KiB"), Reps: 15, Window: 700 * time.Millisecond, Warm: 200 * time.Millisecond})
	out, err := Compare(res, res, CompareConfig{Target: "std", TargetB: "std-lock", Least: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range out.Changes {
		t.Logf("%s x%.2f (%.2f-%.2f), p %.2g: %s", ch.Case, ch.Ratio.Median, ch.Ratio.Low, ch.Ratio.High, ch.P, ch.Verdict)
	}
	if !out.Regressed() {
		t.Error("the lock was not seen")
	}
}

// TestTenRunsOfOneBuildCryNoWolf: comparing a server with itself ten times, interleaved and as two
// files, reports no regression.
func TestTenRunsOfOneBuildCryNoWolf(t *testing.T) {
	if !*long {
		t.Skip("measures for minutes: -long")
	}
	peers := findPeers(t)
	a, err := peers.Target(t.Context(), "gnet")
	if err != nil {
		t.Fatal(err)
	}
	b, base := a, a
	a.Name, b.Name, base.Name = "before", "after", "gnet"
	var last *Results
	for i := range 10 {
		res := runSuite(t, Config{
			Targets: []Target{a, b, base}, Cases: mustParse("echo/1x1 echo/100x1 echo/100x32 broadcast/200x4"),
			Reps: 5, Window: 200 * time.Millisecond, Warm: 50 * time.Millisecond,
		})
		for _, pair := range [][2]*Results{{res, res}, {last, res}} {
			if pair[0] == nil {
				continue
			}
			cfg := CompareConfig{Target: "before", TargetB: "after"}
			out, err := Compare(pair[0], pair[1], cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, ch := range out.Changes {
				if ch.Verdict != Same {
					t.Errorf("run %d, one file %v: %+v", i, pair[0] == pair[1], ch)
				}
			}
		}
		last = res
	}
}
