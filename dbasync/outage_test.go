package dbasync

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// logLines is where a test's log goes.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what was written since the last call, once it has a line with this text.
func (l *logLines) take(t *testing.T, text string) []string {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		s := l.b.String()
		if strings.Contains(s, text) {
			l.b.Reset()
			l.mu.Unlock()
			return strings.Split(strings.TrimSpace(s), "\n")
		}
		l.mu.Unlock()
	}
	t.Fatalf("no line with %q in a minute", text)
	return nil
}

// However many lanes notice it and however often they try again, the log has one line of an outage
// and one of its end, with the name that the program gave.
func TestAnOutageIsOneLine(t *testing.T) {
	var log logLines
	p, url := through(t, server(t).URL())
	db := openOn(t, url, func(c *Config) {
		c.Name, c.Logger = "the players' database", slog.New(slog.NewTextHandler(&log, nil))
		c.Lanes, c.MinBackoff, c.MaxBackoff = 8, time.Millisecond, 5*time.Millisecond
	})
	one := func(text string, parts ...string) {
		t.Helper()
		got := log.take(t, text)
		for _, part := range append(parts, `"the players' database"`) {
			if len(got) != 1 || !strings.Contains(got[0], part) {
				t.Errorf("got %q, want one line with %q and %q", got, text, part)
			}
		}
	}
	one("connected", "connections=8")
	notes := listenFor(t, db)
	p.Cut()
	failures := db.Stats().ConnectFailures
	got := log.take(t, "of=8") // on a busy machine not all of them have noticed by then
	for end := time.Now().Add(time.Minute); db.Stats().ConnectFailures < failures+100; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lanes do not try again")
		}
	}
	p.Heal()
	got = append(got, log.take(t, "dbasync: the database is connected again")...)
	notes()
	var lanes, other []string
	for _, line := range got {
		switch {
		case strings.Contains(line, "notifications"):
			other = append(other, line)
		case !strings.Contains(line, " for="): // but for a reminder, where all this takes so long
			lanes = append(lanes, line)
		}
	}
	if len(lanes) != 2 || !strings.Contains(lanes[0], " of=8") || !strings.Contains(lanes[1], "connected=8") || len(other) > 2 {
		t.Errorf("after %d attempts the log is %q, want one line of the loss, one of the return, and as many for notifications", db.Stats().ConnectFailures-failures, got)
	}
}

// listenFor listens to a channel, so that the DB has a connection for that, and returns how to end it.
func listenFor(t *testing.T, db *DB) (end func()) {
	t.Helper()
	end, err := db.Listen(nil, "outages", func(Notification) {})
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func TestAnErrorIsOneLine(t *testing.T) {
	err := errors.New("failed to connect to `user=x`:\n\t127.0.0.1:1: refused\n\t127.0.0.1:1: refused\n\t[::1]:1: refused")
	if got, want := oneLine(err), "failed to connect to `user=x`: 127.0.0.1:1: refused; [::1]:1: refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
