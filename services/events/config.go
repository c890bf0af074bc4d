package events

import (
	"log/slog"
	"time"

	"millrace/dbasync"
	"millrace/services"
)

// Config sets durable delay events. Zero fields mean the defaults.
type Config struct {
	// DB keeps them, in the table millrace_events; required.
	DB *dbasync.DB
	// URL is that of the same database: Start brings the table up to date
	// (Schema). Empty: that is done elsewhere.
	URL string
	// Pool runs them; required.
	Pool services.Submitter
	// Poll is how often the table is looked at for what other processes have
	// left or put there; default 1 s. Events of this process don't wait for it.
	Poll time.Duration
	// Lease is how long a process that does not renew it is taken for alive; then
	// others run its events again. It is renewed three times a lease while an
	// event runs. Default 30 s.
	Lease time.Duration
	// MaxRun is how long an event may run: after it the lease is not renewed any
	// more, which is logged and counted; others begin it again, or it is given up
	// if that was its last attempt. Default 10 min.
	MaxRun time.Duration
	// Retry is the pause after a failure; it doubles with each, up to an hour.
	// Default 1 s.
	Retry time.Duration
	// MaxAttempts is how often an event is begun; then it is moved to the table
	// millrace_events_given_up, logged and counted, and its key is free. Default 10.
	MaxAttempts int
	// MaxRunning bounds the events that this process runs at one time; default 64.
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
