package services

import "millrace/engine"

// Machine makes the pool and the server of a manager's, for who wants to be what they run on.
type Machine interface {
	NewPool(cfg engine.PoolConfig) (*engine.Pool, error)
	NewServer(cfg engine.Config, h engine.Handler) (*engine.Server, error)
}

// NewOn is New on a machine that is no operating system: see package servicestest, whose
// machine is a simulation. It is no way to configure a manager.
func NewOn(on Machine, cfg Config) (*Manager, error) { return newManager(on, cfg) }

// system makes them on the operating system.
type system struct{}

func (system) NewPool(cfg engine.PoolConfig) (*engine.Pool, error) { return engine.NewPool(cfg) }

func (system) NewServer(cfg engine.Config, h engine.Handler) (*engine.Server, error) {
	return engine.New(cfg, h)
}
