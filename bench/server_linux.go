package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Waits for a server process.
const (
	readyWait = 20 * time.Second
	stopWait  = time.Second
	statsWait = 250 * time.Millisecond
)

// server is the process under test, or a running one that is only looked at.
type server struct {
	addrs []string
	pid   int
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone; err is set then
	err   error
	log   *tailBuffer
	mute  bool      // it does not answer on stats
	nodes []*server // the others of its cluster
	names []string  // of all nodes, this one's first; nil: it is no node
	bus   *server   // the NATS server that they share; nil: they were running before
	data  string    // of the NATS server, a folder
	stats *os.File  // our end of the socket pair to package selfstats; nil for a running server
}

// startServer starts t's command for work, or adopts its addresses. cpus, when not empty, are the only ones
// that the process may use.
func startServer(ctx context.Context, t Target, work Workload, pinned bool, cpus []int) (*server, error) {
	if work.Nodes > 0 {
		return startNodes(ctx, t, work, pinned, cpus)
	}
	return startOne(ctx, t, work, pinned, cpus)
}

func startOne(ctx context.Context, t Target, work Workload, pinned bool, cpus []int) (*server, error) {
	if t.Addr != "" {
		return &server{addrs: strings.Split(t.Addr, ","), pid: t.PID, log: &tailBuffer{}}, nil
	}
	conns := work.Conns
	if work.Kind == Flood {
		conns += work.Members
	}
	s := &server{ended: make(chan struct{}), log: &tailBuffer{}}
	if err := raiseFiles(conns + 2*spareConns); err != nil { // the child inherits it
		return nil, err
	}
	args := t.args(conns, work.extraDoors(), pinned)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(os.Environ(), t.Env...)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = childAttributes()
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", t.Name, err)
	}
	theirs, err := s.offerStats()
	if err != nil {
		return nil, err
	}
	err = startOn(s.cmd, cpus)
	_ = theirs.Close() // the child has its own
	if err != nil {
		_ = s.stats.Close()
		return nil, fmt.Errorf("bench: start %s: %w", t.Name, err)
	}
	s.pid = s.cmd.Process.Pid
	if err := s.awaitReady(ctx, out); err != nil {
		s.stop()
		return nil, fmt.Errorf("bench: %s: %w%s", t.Name, err, s.log.quoted())
	}
	return s, nil
}

// offerStats makes the socket pair of package selfstats; the server's end is descriptor 3.
func (s *server) offerStats() (*os.File, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("bench: socketpair: %w", err)
	}
	for _, fd := range pair {
		syscall.CloseOnExec(fd)
	}
	_ = syscall.SetNonblock(pair[0], true) // so that deadlines work on our end
	s.stats = os.NewFile(uintptr(pair[0]), "stats")
	theirs := os.NewFile(uintptr(pair[1]), "stats")
	s.cmd.ExtraFiles = []*os.File{theirs}
	s.cmd.Env = append(s.cmd.Env, "BENCH_STATS_FD=3")
	return theirs, nil
}

// awaitReady reads stdout up to the line "ready ADDR…"; what follows is drained by a goroutine
// that ends with the process.
func (s *server) awaitReady(ctx context.Context, out io.Reader) error {
	ready := make(chan []string, 1)
	go func() {
		s.drain(out, ready)
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	timer := time.NewTimer(readyWait)
	defer timer.Stop()
	select {
	case s.addrs = <-ready:
		return checkAddrs(s.addrs)
	case <-s.ended:
		return fmt.Errorf("ended before it was ready: %v", s.err)
	case <-timer.C:
		return fmt.Errorf("not ready after %v", readyWait)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *server) drain(out io.Reader, ready chan<- []string) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == "ready" {
			select {
			case ready <- f[1:]:
			default:
			}
			continue
		}
		_, _ = s.log.Write(append(lines.Bytes(), '\n'))
	}
	_, _ = io.Copy(io.Discard, out) // a line over the scanner's limit
}

// stop ends the process and waits for it. A server that was running before is left alone.
func (s *server) stop() {
	var nodes sync.WaitGroup
	for _, n := range s.nodes {
		nodes.Go(n.stop)
	}
	if s.bus != nil {
		defer s.bus.endBus()
	}
	defer nodes.Wait()
	if s.cmd == nil {
		return
	}
	_ = s.stats.Close()
	_ = syscall.Kill(-s.pid, syscall.SIGINT) // fails when it has ended, which is as good
	select {
	case <-s.ended:
	case <-time.After(stopWait):
		_ = syscall.Kill(-s.pid, syscall.SIGKILL)
		<-s.ended
	}
}

// died reports whether the process has ended by itself.
func (s *server) died() error {
	if s.cmd == nil {
		return nil
	}
	select {
	case <-s.ended:
		return fmt.Errorf("bench: the server ended: %v%s", s.err, s.log.quoted())
	default:
		return nil
	}
}

// selfStats is what a Go server says about itself when it runs package selfstats.
type selfStats struct {
	Goroutines int    `json:"goroutines"`
	Mallocs    uint64 `json:"mallocs"`
	HeapBytes  uint64 `json:"heap"`
	GCCycles   uint64 `json:"gc"`
	PauseNanos uint64 `json:"pause"`
}

func (st *selfStats) add(o selfStats) {
	st.Goroutines += o.Goroutines
	st.Mallocs += o.Mallocs
	st.HeapBytes += o.HeapBytes
	st.GCCycles += o.GCCycles
	st.PauseNanos += o.PauseNanos
}

var errNoStats = errors.New("bench: the server says nothing about itself")

// ask gets the server's own figures. One that has not answered once is not asked again.
func (s *server) ask() (st selfStats, err error) {
	if s.stats == nil || s.mute {
		return selfStats{}, errNoStats
	}
	defer func() { s.mute = err != nil }()
	_ = s.stats.SetDeadline(time.Now().Add(statsWait))
	if _, err := s.stats.Write([]byte{'?'}); err != nil {
		return selfStats{}, errNoStats
	}
	line, err := bufio.NewReader(s.stats).ReadBytes('\n')
	if err != nil {
		return selfStats{}, errNoStats
	}
	if err := json.Unmarshal(line, &st); err != nil {
		return selfStats{}, fmt.Errorf("bench: the server's own figures: %w", err)
	}
	return st, nil
}

// tailBuffer keeps the last few KiB that were written to it.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

const tailKeep = 4 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailKeep; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// quoted is the tail for an error message, empty when nothing was written.
func (t *tailBuffer) quoted() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.b)
	if len(text) == 0 {
		return ""
	}
	return fmt.Sprintf("; it said: %s", text)
}
