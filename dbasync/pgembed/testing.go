package pgembed

import (
	"context"
	"errors"
	"os"
	"time"
)

// TB is the part of testing.TB that ForTest needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// ForTest starts a throwaway server and stops it at the end of the test. Without binaries it skips
// the test, but fails it in CI (environment variable CI set).
func ForTest(tb TB, cfg Config) *Server {
	tb.Helper()
	srv, err := Start(context.Background(), cfg)
	if errors.Is(err, ErrNotInstalled) && os.Getenv("CI") == "" {
		tb.Skipf("skipped: %v (install PostgreSQL to run it)", err)
	}
	if err != nil {
		tb.Fatalf("pgembed: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Stop(ctx, Immediate); err != nil {
			tb.Fatalf("pgembed: %v", err)
		}
	})
	return srv
}
