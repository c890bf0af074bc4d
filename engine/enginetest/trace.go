package enginetest

import (
	"context"
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// traceMost is how many lines of a run are kept: its last ones.
const traceMost = 2000

// trace is what has happened in a run: a hash of everything, and the text of the end.
type trace struct {
	mu    sync.Mutex
	sum   uint64
	count int
	keep  bool
	lines []string
	start time.Time
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// note adds an event: what happened, to which server's what, and the bytes that belong to it.
func (t *trace) note(what string, a, b, c int, data []byte) {
	at := time.Since(t.start)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	h := t.sum
	for _, v := range [...]uint64{uint64(at), uint64(a), uint64(b), uint64(c), uint64(crc32.Checksum([]byte(what), castagnoli)), uint64(len(data)), uint64(crc32.Checksum(data, castagnoli))} {
		h = (h ^ v) * fnvPrime
		h ^= h >> 29
	}
	t.sum = h
	if t.keep {
		text := ""
		if len(data) > 0 {
			text = fmt.Sprintf(" %.48q", data[:min(len(data), 48)])
		}
		t.line(at, fmt.Sprintf("%-16s conn %d loop %d n %d%s", what, a, b, c, text))
	}
}

// say adds a line of text, which is no part of the hash.
func (t *trace) say(text string) {
	at := time.Since(t.start)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keep {
		t.line(at, text)
	}
}

// line keeps a line. mu is held.
func (t *trace) line(at time.Duration, text string) {
	if len(t.lines) >= traceMost {
		t.lines = append(t.lines[:0], t.lines[traceMost/2:]...)
	}
	t.lines = append(t.lines, fmt.Sprintf("%14v  %s", at, text))
}

func (t *trace) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

// sums are how many events there were, and their hash.
func (t *trace) sums() (count int, sum uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count, t.sum
}

// traceLog is a log that becomes part of the trace's text.
type traceLog struct {
	t     *trace
	attrs string
}

func (l traceLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l traceLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "log: %v %s%s", r.Level, r.Message, l.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%.400v", a.Key, a.Value)
		return true
	})
	l.t.say(b.String())
	return nil
}

func (l traceLog) WithAttrs(list []slog.Attr) slog.Handler {
	for _, a := range list {
		l.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return l
}

func (l traceLog) WithGroup(string) slog.Handler { return l }
