package gnetio

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// Every loop and its listener is found in its epoll set, and so are the listeners of a
// goroutine that accepts alone.
func TestLoopsAreFound(t *testing.T) {
	for _, cfg := range []Config{{Loops: 3}, {Loops: 3, Single: true, Balance: LeastConnections}, {Loops: 2, Addrs: []string{"unix://" + t.TempDir() + "/s"}, Balance: SourceHash}} {
		h := &echoHost{}
		n := listen(t, cfg, h)
		want := cfg.Loops
		if cfg.Single || cfg.Addrs != nil {
			want = 1
		}
		if got := len(n.ears.listening); got != want {
			t.Errorf("%+v: %d listeners found, want %d", cfg, got, want)
		}
		for _, l := range h.all() {
			if l.n.(*loop).epfd < 0 {
				t.Errorf("%+v: no epoll set", cfg)
			}
		}
	}
}

// When Start returns, the kernel has a listener for each loop, and the Host knows them.
func TestStartedMeansEveryLoopListens(t *testing.T) {
	for range 5 {
		h := &echoHost{}
		n := listen(t, Config{Loops: 4}, h)
		port := n.Addrs()[0].(*net.TCPAddr).Port
		f, err := os.Open("/proc/net/tcp")
		if err != nil {
			t.Skip(err)
		}
		listeners := 0
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if w := strings.Fields(lines.Text()); strings.HasSuffix(w[1], fmt.Sprintf(":%04X", port)) && w[3] == "0A" {
				listeners++
			}
		}
		f.Close()
		if len(h.all()) != 4 || listeners != 4 {
			t.Errorf("%d loops known, %d listeners, want 4", len(h.all()), listeners)
		}
	}
}

// A read and its answer allocate nothing here or in gnet, and a connection is small.
func TestReadingAllocatesNothing(t *testing.T) {
	h := &echoHost{received: func(e *echo, b []byte) bool { e.Write(b); return true }}
	c := dial(t, listen(t, Config{Loops: 1}, h).Addrs()[0])
	b := make([]byte, 100)
	allocs := testing.AllocsPerRun(200, func() {
		c.Write(b)
		for n := 0; n < len(b); {
			m, err := c.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations for a read and a write", allocs)
	}
	if n := unsafe.Sizeof(conn{}); unsafe.Sizeof(uintptr(0)) == 8 && n > 80 {
		t.Errorf("a connection has %d bytes, want 80 or fewer", n)
	}
}

// What was started and stopped is garbage, its Host included.
func TestStoppedNetworksAreCollected(t *testing.T) {
	const rounds = 20
	gone := make(chan bool, rounds)
	for i := range rounds {
		h := &echoHost{}
		runtime.AddCleanup(h, func(int) { gone <- true }, i)
		cfg := Config{Loops: 2, Logger: quiet, Addrs: []string{"tcp://127.0.0.1:0"}, Single: i%3 == 1, ReadBuffer: 64 << 10}
		if i%3 == 2 {
			cfg.Addrs = append(cfg.Addrs, "unix://"+t.TempDir()+"/s")
		}
		n := New(cfg, h)
		if err := n.Start(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		dial(t, n.Addrs()[0]).says("x")
		if err := n.Stop(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, fmt.Sprintf("%d hosts to be collected", rounds), func() bool {
		runtime.GC()
		return len(gone) == rounds
	})
}

// A network that stops, or that could not start, leaves another on its address alone.
func TestStopOfOneLeavesTheOther(t *testing.T) {
	a := listen(t, Config{}, &echoHost{})
	cfg := Config{Addrs: []string{"tcp://" + a.Addrs()[0].String()}}
	if _, err := tryListen(t, cfg, &echoHost{}); err == nil {
		t.Fatal("two on one port")
	}
	c := dial(t, a.Addrs()[0])
	c.says("still")
	if err := a.Stop(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	b := listen(t, cfg, &echoHost{})
	addrs := namedApart([]string{cfg.Addrs[0]})
	forgetEngine(addrs)
	if again := namedApart([]string{cfg.Addrs[0]}); again[0] == addrs[0] {
		t.Errorf("two engines are called %s", addrs[0])
	}
	a.Stop(within(t, 20*time.Second))
	dial(t, b.Addrs()[0]).says("served")
}

// Another version of gnet than the tested one is named; none, or no build information,
// is not.
func TestAnotherGnetIsNamed(t *testing.T) {
	with := func(m debug.Module) *debug.BuildInfo {
		return &debug.BuildInfo{Deps: []*debug.Module{{Path: "example.com/x", Version: "v1.0.0"}, &m}}
	}
	for _, tc := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, ""},
		{&debug.BuildInfo{}, ""},
		{with(debug.Module{Path: gnetPath, Version: testedGnet}), ""},
		{with(debug.Module{Path: gnetPath, Version: "v2.11.0"}), "v2.11.0"},
		{with(debug.Module{Path: gnetPath, Version: testedGnet, Replace: &debug.Module{Path: "../gnet"}}), "../gnet"},
	} {
		if got := otherGnet(tc.info, tc.info != nil); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	var b strings.Builder
	n := New(Config{Logger: textLog(&b)}, nil)
	n.warnOf("v2.11.0")
	if !strings.Contains(b.String(), "v2.11.0") || !strings.Contains(b.String(), testedGnet) {
		t.Errorf("the log lacks a version: %s", b.String())
	}
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil || !strings.Contains(string(mod), gnetPath+" "+testedGnet+"\n") {
		t.Errorf("go.mod does not have gnet %s (%v): run the tests that this file's subject names, then change testedGnet", testedGnet, err)
	}
}
