package engine

import (
	"errors"
	"time"
)

// Adjustable are the settings that can be changed while the server runs. They are as in
// Config: 0 or Off is no limit or none where that may be.
type Adjustable struct {
	MaxConns      int // at most as many as the server was started with
	MaxConnsPerIP int // only where the server was started with one: else nobody has counted
	MemoryBudget  int // MaxOutbox stays as it was

	FirstFrameTimeout time.Duration
	FrameTimeout      time.Duration
	IdleTimeout       time.Duration
	Heartbeat         time.Duration
}

// Adjustable returns the settings that are in force.
func (srv *Server) Adjustable() Adjustable { return *srv.adjusted.Load() }

// Adjust changes settings while the server runs: change is given those in force, and what
// it makes of them holds from then on. Sessions that are there are judged by the new ones,
// at their next packet or tick; none is closed for MaxConns or MaxConnsPerIP. An error
// names every field that can't be, each as a *ConfigError, and nothing has changed.
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

// mayAdjust tells what can't be set so. mu is held.
func (srv *Server) mayAdjust(now, next Adjustable) error {
	c := srv.cfg
	next.put(&c)
	err := c.validate()
	bad := func(field string, v any, why string) { err = errors.Join(err, &ConfigError{field, v, why}) }
	switch most := srv.cfg.MaxConns; {
	case srv.state == serverNew || srv.state == serverStarting:
		bad("MaxConns", next.MaxConns, "the server is not running yet: set Config")
	case next.MaxConns < 1 || next.MaxConns > most:
		bad("MaxConns", next.MaxConns, "must be 1 to what the server was started with: to raise that, start it anew")
	}
	if next.MaxConnsPerIP != now.MaxConnsPerIP && (srv.cfg.MaxConnsPerIP == 0 || next.MaxConnsPerIP == 0) {
		bad("MaxConnsPerIP", next.MaxConnsPerIP, "can't be turned on or off while the server runs, as nobody counts without it")
	}
	return err
}

// adjustable are a config's settings that can be changed.
func (c *Config) adjustable() *Adjustable {
	return &Adjustable{
		MaxConns: c.MaxConns, MaxConnsPerIP: c.MaxConnsPerIP, MemoryBudget: c.MemoryBudget,
		FirstFrameTimeout: c.FirstFrameTimeout, FrameTimeout: c.FrameTimeout, IdleTimeout: c.IdleTimeout, Heartbeat: c.Heartbeat,
	}
}

// put has c say what a says.
func (a *Adjustable) put(c *Config) {
	c.MaxConns, c.MaxConnsPerIP, c.MemoryBudget = a.MaxConns, a.MaxConnsPerIP, a.MemoryBudget
	c.FirstFrameTimeout, c.FrameTimeout, c.IdleTimeout, c.Heartbeat = a.FirstFrameTimeout, a.FrameTimeout, a.IdleTimeout, a.Heartbeat
}
