package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"millrace/internal/mask"
	"millrace/internal/seldom"
)

// Pauses between attempts to reach or to start a backend; they double.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

// errEnded: a server that this process has started has ended by itself.
var errEnded = errors.New("it has ended by itself")

// outageLines returns the log lines about a backend that is away: lost and back are their texts, and
// what, the flag that names it, is in each.
func outageLines(log *slog.Logger, level slog.Level, lost, back string, what ...any) *seldom.Outage {
	return &seldom.Outage{
		Lost: func(n int, err error, away time.Duration, _ bool) {
			log.Log(context.Background(), level, lost, append(what, "for", away.Round(time.Millisecond), "attempts", n, "err", err, "again", "after "+mostPause.String()+" at most")...)
		},
		Back: func(away time.Duration, _ error) {
			log.Info(back, append(what, "after", away.Round(time.Millisecond))...)
		},
	}
}

// pause waits for wait, or until ctx ends, and returns the next pause.
func pause(ctx context.Context, wait time.Duration) time.Duration {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(2*wait, mostPause)
}

// joinWhenUp retries until the shared cache has started, which failed with err.
func (b *backends) joinWhenUp(ctx context.Context, f *backendFlags, err error, log *slog.Logger) {
	out := outageLines(log, slog.LevelWarn, "cluster: the NATS servers can't be reached; 5/* and 6/* answer ERROR 11", "cluster: the NATS servers are reached",
		"flag", "--cluster "+mask.Conn(f.Cluster))
	defer out.End()
	for wait := leastPause; err != nil; err = b.cache.Start(ctx) {
		if ctx.Err() != nil {
			return
		}
		out.Fail(err)
		wait = pause(ctx, wait)
	}
	out.Fine()
}

// keepDatabase restarts the embedded database when it has ended by itself.
func (b *backends) keepDatabase(ctx context.Context, log *slog.Logger) {
	out := outageLines(log, slog.LevelError, "database: the embedded server has ended, and is started again", "database: the embedded server runs again", "flag", "--db embedded")
	defer out.End()
	for wait := leastPause; ; {
		select {
		case <-ctx.Done():
			return
		case <-b.pg.Done():
		}
		out.Fail(errEnded)
		next := pause(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		if err := b.pg.Start(ctx); err != nil {
			out.Fail(err)
			wait = next
			continue
		}
		wait = leastPause
		out.Fine()
	}
}

// migrateWhenUp makes the tables when the database, which may not be reachable yet, is connected.
func (b *backends) migrateWhenUp(ctx context.Context, url string, schemas map[string]fs.FS, log *slog.Logger, migrated chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !b.db.Connected() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	out := outageLines(log, slog.LevelWarn, "database: its tables can't be made; 3/1, 4/1 and 4/2 answer ERROR 11", "database: its tables are made", "flag", "--db "+mask.Conn(b.flags.DB))
	defer out.End()
	for wait := leastPause; ctx.Err() == nil; wait = pause(ctx, wait) {
		err := migrateAll(ctx, url, schemas)
		if err == nil {
			close(migrated)
			out.Fine()
			return
		}
		if ctx.Err() == nil {
			out.Fail(err)
		}
	}
}
