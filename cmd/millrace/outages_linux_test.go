package main

import (
	"strings"
	"testing"
	"time"
)

// A backend that can't be reached is one line in the log, with the flag and the address, however
// many connections and tasks try to reach it and however often.
func TestABackendThatIsAwayIsOneLine(t *testing.T) {
	for _, c := range []struct{ flag, url, want string }{
		{"--db", "postgres://someone:secret@ADDR/x?connect_timeout=1", "the database can't be reached"},
		{"--cluster", "nats://secret@ADDR", "the NATS servers can't be reached"},
	} {
		t.Run(c.flag, func(t *testing.T) {
			t.Parallel()
			addr := freeAddr(t)
			s := serve(t, c.flag, strings.Replace(c.url, "ADDR", addr, 1))
			if !s.says(c.want) {
				t.Fatalf("no line with %q:\n%s", c.want, s.log())
			}
			told := time.Now()
			for time.Since(told) < 3*time.Second { // some 30 attempts of the lanes, 5 of the cluster
				s.dial().echo("served meanwhile")
				time.Sleep(100 * time.Millisecond)
			}
			log := s.log()
			if n := strings.Count(log, "level="); n != 1 || !strings.Contains(log, c.flag+" ") || !strings.Contains(log, addr) || strings.Contains(log, "secret") {
				t.Errorf("%d lines, want 1 with %s and %s and no password:\n%s", n, c.flag, addr, log)
			}
		})
	}
}
