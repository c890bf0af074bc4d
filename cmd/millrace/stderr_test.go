package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// stuck is a pipe that nobody reads until it is freed.
type stuck struct {
	begun chan struct{} // closed when the first write waits
	once  sync.Once
	free  chan struct{}

	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *stuck) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.begun) })
	<-s.free
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

// While nobody reads the log, nobody waits for it; later it has what was kept, says where how much
// is missing, and goes on.
func TestALogThatNobodyReadsHoldsNobodyUp(t *testing.T) {
	pipe := &stuck{begun: make(chan struct{}), free: make(chan struct{})}
	w := newLogWriter(pipe)
	log := slog.New(slog.NewTextHandler(w, nil))
	w.lost = func(n int) { log.Warn("missing", "lines", n) }
	log.Info("first")
	<-pipe.begun
	const lines = 20_000
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for i := range lines {
			log.Info("line", "i", i, "filler", strings.Repeat("x", 50))
		}
	}()
	select {
	case <-wrote:
	case <-time.After(patience):
		t.Fatal("whoever logs waits for the reader")
	}
	close(pipe.free)
	w.close()
	text := pipe.b.String()
	kept := strings.Count(text, "msg=line")
	if len(text) > maxUnwritten+1024 || kept == 0 || kept == lines {
		t.Errorf("%d bytes with %d of %d lines, want as many as fit into %d bytes", len(text), kept, lines, maxUnwritten)
	}
	if want := fmt.Sprintf("msg=missing lines=%d\n", lines-kept); !strings.HasSuffix(text, want) {
		t.Errorf("the log ends with %q, want %q", text[max(0, len(text)-200):], want)
	}
	if !strings.Contains(text, fmt.Sprintf("msg=line i=%d ", kept-1)) {
		t.Error("the lines that are kept are not the first ones")
	}
}

// The end of a process waits a moment for the reader, but no longer.
func TestNobodyReadsTheLastWords(t *testing.T) {
	pipe := &stuck{begun: make(chan struct{}), free: make(chan struct{})}
	defer close(pipe.free)
	w := newLogWriter(pipe)
	if _, err := w.Write([]byte("a line\n")); err != nil {
		t.Error(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.close()
		sayLast(pipe, "the end")
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the process waits for the reader")
	}
}
