package soak

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"millrace/services/admin"
)

// usage is what a server holds at one time.
type usage struct {
	Second     float64 `json:"second"` // since the soak's start
	Sessions   int     `json:"sessions"`
	Heap       int     `json:"heap_bytes"` // of objects, garbage too unless it was collected just before
	RSS        int     `json:"rss_bytes"`
	Peak       int     `json:"rss_peak_bytes"`
	Goroutines int     `json:"goroutines"`
	Files      int     `json:"files"` // descriptors, without epoll sets and their like
}

func (u usage) String() string {
	return fmt.Sprintf("%d sessions, heap %s, RSS %s (peak %s), %d goroutines, %d files", u.Sessions, mib(u.Heap), mib(u.RSS), mib(u.Peak), u.Goroutines, u.Files)
}

func mib(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// usage asks a server and the kernel. collect: garbage is collected before.
func (s *soak) usage(v *server, collect bool) (u usage, err error) {
	if collect {
		var ignored []byte
		if err = v.get("/debug/pprof/heap?gc=1", &ignored); err != nil {
			return u, err
		}
	}
	var text []byte
	if err = v.get("/metrics", &text); err != nil {
		return u, err
	}
	var list admin.Sessions
	if err = v.get("/sessions?limit=1", &list); err != nil {
		return u, err
	}
	u = usage{
		Second: time.Since(s.began).Seconds(), Sessions: list.Total, Heap: metric(text, "go_memstats_heap_alloc_bytes"), Goroutines: metric(text, "go_goroutines"),
		RSS: v.status("VmRSS"), Peak: v.status("VmHWM"), Files: v.files(),
	}
	if min(u.Heap, u.Goroutines, u.RSS, u.Peak, u.Files) <= 0 { // no server holds so little
		return u, fmt.Errorf("figures are missing: %v", u)
	}
	return u, nil
}

// metric is a value of Prometheus's text.
func metric(text []byte, name string) int {
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		if rest, ok := strings.CutPrefix(in.Text(), name+" "); ok {
			f, _ := strconv.ParseFloat(rest, 64)
			return int(f)
		}
	}
	return -1
}

// status is a line of /proc/PID/status, in bytes.
func (v *server) status(name string) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	if err != nil {
		return 0 // gone
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name+":" {
			n, _ := strconv.Atoi(f[1])
			return n << 10
		}
	}
	return 0
}

func (v *server) files() (n int) {
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.cmd.Process.Pid))
	for _, f := range all {
		if to, err := os.Readlink(f); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			n++
		}
	}
	return n
}

// watch looks at a server now and then until stop is closed, and keeps an even choice of
// what it saw.
func (s *soak) watch(v *server, stop <-chan struct{}) {
	every := max(s.length/300, 500*time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		u, err := s.usage(v, false)
		if err != nil {
			select {
			case <-stop: // and so is the server
			default:
				s.violation("the operator's door: %v", err)
			}
			continue
		}
		s.mu.Lock()
		s.samples = append(s.samples, u)
		s.mu.Unlock()
	}
}

// quiet waits until the server has let go of all clients, and returns what it holds then.
// ok says whether that is what is hoped for; the last look counts.
func (s *soak) quiet(v *server, within time.Duration, ok func(usage) bool) (u usage) {
	s.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		var err error
		if u, err = s.usage(v, true); err != nil {
			s.Fatalf("the operator's door: %v", err)
		}
		if ok(u) || time.Now().After(end) {
			return u
		}
	}
}
