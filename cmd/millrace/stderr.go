package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxUnwritten is how much of the log waits while nobody reads it, in bytes.
	maxUnwritten = 256 << 10
	// lastWords is how long the process waits at its end for somebody to read what it says.
	lastWords = time.Second
)

// logWriter writes the log such that whoever logs, a loop too, never waits for it: stderr may be a
// pipe that nobody reads for a while. Lines over maxUnwritten are left out and counted.
type logWriter struct {
	w    io.Writer
	lost func(lines int) // says, in the log, how many are missing here
	wake chan struct{}
	quit chan struct{}
	done chan struct{} // closed when all is written after quit

	mu      sync.Mutex
	waiting []byte // guarded by mu
	missing int    // guarded by mu; lines left out since the last call of lost
}

// newLogWriter starts the goroutine that writes; close ends it. lost is set before the first Write.
func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{w: w, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go l.run()
	return l
}

// Write takes b, which is one line or more, and never fails.
func (l *logWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	if len(l.waiting)+len(b) > maxUnwritten {
		l.missing += bytes.Count(b, []byte("\n"))
	} else {
		l.waiting = append(l.waiting, b...)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (l *logWriter) run() {
	defer close(l.done)
	for last := false; !last; {
		select {
		case <-l.wake:
		case <-l.quit:
			last = true
		}
		for l.write() {
		}
	}
}

// write writes what waits, and reports whether there was something.
func (l *logWriter) write() bool {
	l.mu.Lock()
	b, missing := l.waiting, l.missing
	l.waiting, l.missing = nil, 0
	l.mu.Unlock()
	_, _ = l.w.Write(b) // the server does not depend on its log
	if missing > 0 {
		l.lost(missing)
	}
	return len(b) > 0 || missing > 0
}

// close writes what waits, unless nobody reads it.
func (l *logWriter) close() {
	close(l.quit)
	select {
	case <-l.done:
	case <-time.After(lastWords):
	}
}

// sayLast writes the line that a process ends with, unless nobody reads it.
func sayLast(w io.Writer, line string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fmt.Fprintln(w, line)
	}()
	select {
	case <-done:
	case <-time.After(lastWords):
	}
}
