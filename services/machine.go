package services

import "millrace/engine"

// Machine creates the pool and the server of a manager, for callers that replace the environment in
// which they run.
type Machine interface {
	NewPool(cfg engine.PoolConfig) (*engine.Pool, error)
	NewServer(cfg engine.Config, h engine.Handler) (*engine.Server, error)
}

// NewOn is like New, in the environment of on instead of the operating system: see package
// servicestest, whose Machine is a simulation. It is not meant for configuring a manager.
func NewOn(on Machine, cfg Config) (*Manager, error) { return newManager(on, cfg) }

// system is the Machine of the operating system.
type system struct{}

func (system) NewPool(cfg engine.PoolConfig) (*engine.Pool, error) { return engine.NewPool(cfg) }

func (system) NewServer(cfg engine.Config, h engine.Handler) (*engine.Server, error) {
	return engine.New(cfg, h)
}
