package engine

import "millrace/engine/internal/machine"

// NewOn is like New, in another environment than the operating system, which only this module can
// provide: see package enginetest, whose World is one. It is not meant for configuring a server.
func NewOn(on machine.Machine, cfg Config, h Handler) (*Server, error) { return newServer(on, cfg, h) }

// NewPoolOn is like NewPool, in another environment, as NewOn.
func NewPoolOn(on machine.Machine, cfg PoolConfig) (*Pool, error) { return newPool(on, cfg) }
