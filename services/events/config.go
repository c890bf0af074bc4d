package events

import (
	"log/slog"
	"time"

	"millrace/dbasync"
	"millrace/services"
)

// Config configures durable delay events. Zero fields mean the defaults.
type Config struct {
	// DB stores them, in the table millrace_events; required.
	DB *dbasync.DB
	// URL is that of the same database: Start then migrates the table (Schema). If empty, the table
	// must be migrated elsewhere.
	URL string
	// Pool runs them; required.
	Pool services.Submitter
	// Poll is the interval at which the table is read for events that other processes have left or
	// added; default 1 s. Events of this process don't wait for it.
	Poll time.Duration
	// Lease is how long a process that does not renew it is considered alive; then others run its
	// events again. It is renewed three times per lease while an event runs. Default 30 s.
	Lease time.Duration
	// MaxRun is how long an event may run: after that the lease is no longer renewed, which is
	// logged and counted; another process starts it again, or it is given up if that was its last
	// attempt. Default 10 min.
	MaxRun time.Duration
	// Retry is the delay after a failure; it doubles with each, up to an hour. Default 1 s.
	Retry time.Duration
	// MaxAttempts is how often an event is started; after that it is moved to the table
	// millrace_events_given_up, logged and counted, and its key is free. Default 10.
	MaxAttempts int
	// MaxRunning limits the events that this process runs at the same time; default 64.
	MaxRunning int
	// Logger; default slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Poll, time.Second)
	def(&c.Lease, 30*time.Second)
	def(&c.Retry, time.Second)
	def(&c.MaxRun, 10*time.Minute)
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 10
	}
	if c.MaxRunning == 0 {
		c.MaxRunning = 64
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
