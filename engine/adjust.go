package engine

import (
	"errors"
	"time"
)

// Adjustable are the settings that can be changed while the server runs, with the same meaning as
// in Config: 0 or Off means no limit, or off, where that is allowed.
type Adjustable struct {
	MaxConns      int // at most the value that the server was started with
	MaxConnsPerIP int // only if the server was started with one: else addresses are not counted
	MemoryBudget  int // MaxOutbox is not changed with it

	FirstFrameTimeout time.Duration
	FrameTimeout      time.Duration
	IdleTimeout       time.Duration
	Heartbeat         time.Duration
}

// Adjustable returns the present settings.
func (srv *Server) Adjustable() Adjustable { return *srv.adjusted.Load() }

// Adjust changes settings while the server runs: change is given the present settings and modifies
// them. They also apply to existing sessions, at their next packet or tick; no session is closed
// because of MaxConns or MaxConnsPerIP. An error lists every invalid field, each as a *ConfigError;
// then nothing is changed.
func (srv *Server) Adjust(change func(*Adjustable)) error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	now := *srv.adjusted.Load()
	next := now
	change(&next)
	for _, d := range []*time.Duration{&next.FirstFrameTimeout, &next.FrameTimeout, &next.IdleTimeout, &next.Heartbeat} {
		swap(d, Off, 0)
	}
	swap(&next.MaxConnsPerIP, Off, 0)
	if err := srv.mayAdjust(now, next); err != nil {
		return err
	}
	srv.adjusted.Store(&next)
	srv.budget.SetLimit(next.MemoryBudget)
	return nil
}

// mayAdjust returns an error for changes that are not possible. mu is held.
func (srv *Server) mayAdjust(now, next Adjustable) error {
	c := srv.cfg
	next.put(&c)
	err := c.validate()
	bad := func(field string, v any, why string) { err = errors.Join(err, &ConfigError{field, v, why}) }
	switch most := srv.cfg.MaxConns; {
	case srv.state == serverNew || srv.state == serverStarting:
		bad("MaxConns", next.MaxConns, "the server is not running yet: set Config")
	case next.MaxConns < 1 || next.MaxConns > most:
		bad("MaxConns", next.MaxConns, "must be 1 to the value that the server was started with: restart it to raise that")
	}
	if next.MaxConnsPerIP != now.MaxConnsPerIP && (srv.cfg.MaxConnsPerIP == 0 || next.MaxConnsPerIP == 0) {
		bad("MaxConnsPerIP", next.MaxConnsPerIP, "can't be turned on or off while the server runs, as addresses are counted only with it")
	}
	return err
}

// adjustable returns the adjustable settings of a config.
func (c *Config) adjustable() *Adjustable {
	return &Adjustable{
		MaxConns: c.MaxConns, MaxConnsPerIP: c.MaxConnsPerIP, MemoryBudget: c.MemoryBudget,
		FirstFrameTimeout: c.FirstFrameTimeout, FrameTimeout: c.FrameTimeout, IdleTimeout: c.IdleTimeout, Heartbeat: c.Heartbeat,
	}
}

// put sets the settings of a in c.
func (a *Adjustable) put(c *Config) {
	c.MaxConns, c.MaxConnsPerIP, c.MemoryBudget = a.MaxConns, a.MaxConnsPerIP, a.MemoryBudget
	c.FirstFrameTimeout, c.FrameTimeout, c.IdleTimeout, c.Heartbeat = a.FirstFrameTimeout, a.FrameTimeout, a.IdleTimeout, a.Heartbeat
}
