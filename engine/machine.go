package engine

import "millrace/engine/internal/machine"

// NewOn is New on a machine that is no operating system, which only this module can make:
// see package enginetest, whose World does. It is no way to configure a server.
func NewOn(on machine.Machine, cfg Config, h Handler) (*Server, error) { return newServer(on, cfg, h) }

// NewPoolOn is NewPool on such a machine.
func NewPoolOn(on machine.Machine, cfg PoolConfig) (*Pool, error) { return newPool(on, cfg) }
