//go:build linux

package bench

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSuiteInterleavesAndTurns(t *testing.T) {
	a, b := startFake(t, honest).target(), startFake(t, honest).target()
	a.Name, b.Name = "a", "b"
	var order []string
	res := runSuite(t, Config{
		Targets: []Target{a, b}, Cases: mustParse("echo/2 services/2"), Reps: 2, Window: 50 * time.Millisecond, Warm: time.Millisecond,
		OnRun: func(p Progress, r Run) {
			if p.Total != 8 || p.Left < 0 || p.Done == 8 && p.Left != 0 {
				t.Errorf("got %+v, want a total of 8 and nothing left at the end", p)
			}
			order = append(order, r.Case+" "+r.Target)
		},
	})
	want := "echo/2x1 a,echo/2x1 b,services/2x1 a,services/2x1 b,echo/2x1 b,echo/2x1 a,services/2x1 b,services/2x1 a"
	if got := strings.Join(order[len(order)-8:], ","); got != want { // there may have been a run before it
		t.Errorf("got %s, want %s", got, want)
	}
	if res.Header.Base != "b" || res.Header.Machine.CPUs < 1 || len(res.Cells()) != 4 {
		t.Errorf("got header %+v and %d cells", res.Header, len(res.Cells()))
	}
}

func TestSuiteEndsWithItsContext(t *testing.T) {
	target := startFake(t, honest).target()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := New(Config{Targets: []Target{target}, Cases: mustParse("echo/2"), Reps: 50, Window: 50 * time.Millisecond, OnRun: func(p Progress, _ Run) {
		if p.Done == 2 {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(ctx)
	if !errors.Is(err, context.Canceled) || len(res.Runs) != 2 {
		t.Errorf("got %d runs and %v, want 2 and the context's end", len(res.Runs), err)
	}
}

func TestWrongConfigsAreRefusedAtOnce(t *testing.T) {
	ok := Target{Name: "x", Addr: "127.0.0.1:1"}
	for name, cfg := range map[string]Config{
		"no target":       {},
		"nameless":        {Targets: []Target{{Addr: "127.0.0.1:1"}}},
		"twice":           {Targets: []Target{ok, ok}},
		"neither":         {Targets: []Target{{Name: "x"}}},
		"both":            {Targets: []Target{{Name: "x", Addr: "127.0.0.1:1", Command: []string{"y"}}}},
		"no such door":    {Targets: []Target{{Name: "x", Addr: "quic://127.0.0.1:1"}}},
		"no port":         {Targets: []Target{{Name: "x", Addr: "127.0.0.1"}}},
		"unknown base":    {Targets: []Target{ok}, Base: "y"},
		"negative reps":   {Targets: []Target{ok}, Reps: -1},
		"tiny window":     {Targets: []Target{ok}, Window: time.Millisecond},
		"many generators": {Targets: []Target{ok}, Generators: 100},
		"wrong case":      {Targets: []Target{ok}, Cases: []Workload{{Kind: Echo}}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestCommandLinesAreSplit(t *testing.T) {
	got, err := CommandTarget("x", ` ./server  --name 'a b' "c d" '' {conns} `)
	if err != nil {
		t.Fatal(err)
	}
	if want := "./server|--name|a b|c d||356"; strings.Join(got.args(100, nil, false), "|") != want {
		t.Errorf("got %q, want %q", strings.Join(got.args(100, nil, false), "|"), want)
	}
	got.OneLoop, got.Doors = []string{"-one"}, []string{"-door", "{door}"}
	if want := "./server|--name|a b|c d||356|-door|ws|-door|tls|-one"; strings.Join(got.args(100, []string{"ws", "tls"}, true), "|") != want {
		t.Errorf("got %q, want %q", strings.Join(got.args(100, []string{"ws", "tls"}, true), "|"), want)
	}
	for _, bad := range []string{"", "  ", "a 'b"} {
		if _, err := CommandTarget("x", bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestPinnedServersSeeOneProcessor(t *testing.T) {
	if _, _, err := splitCPUs(); err != nil {
		t.Skip(err)
	}
	target, err := findPeers(t).Target(t.Context(), "std")
	if err != nil {
		t.Fatal(err)
	}
	servers, _, _ := splitCPUs()
	srv, err := startServer(t.Context(), target, Workload{Kind: Echo, Conns: 10}, true, servers)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.stop()
	status, err := os.ReadFile("/proc/" + itoa(srv.pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Cpus_allowed_list:\t"+itoa(servers[0])+"\n") {
		t.Errorf("the server may use other processors than %v", servers)
	}
	st, err := srv.ask()
	if err != nil || st.Goroutines < 1 || st.Mallocs == 0 {
		t.Errorf("its own figures: got %+v, %v", st, err)
	}
}

func itoa(n int) string { return strings.TrimSpace(string(jsonf("%d", n))) }

func TestCPUAccountingMatchesWork(t *testing.T) {
	before, err := cpuUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var ru unix.Rusage
	for begin := int64(-1); begin < 0 || ru.Utime.Nano() < begin+int64(150*time.Millisecond); {
		if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
			t.Fatal(err)
		}
		if begin < 0 {
			begin = ru.Utime.Nano()
		}
		for x := 0; x < 1e6; x++ {
		}
	}
	after, err := cpuUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	used := after.sub(before)
	if used.total < 140*time.Millisecond || used.total > 2*time.Second || used.user+used.system != used.total || used.user < used.total/2 {
		t.Errorf("150 ms of work cost %+v", used)
	}
	if _, err := cpuUsage(1 << 30); err == nil {
		t.Error("a process that does not exist has CPU")
	}
}
