// Package machine is the seam between a server and what it runs on, for who wants to be
// that: a simulation is a Machine whose network, workers and files are its own. A server
// that is given none runs on the operating system, and never asks.
package machine

import (
	"log/slog"
	"time"

	"millrace/engine/internal/door"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/sched"
)

// Machine is what a server runs on. Its methods are called while a server or a pool is made
// or started, and from the server's ticker.
type Machine interface {
	// Network makes a server's network, in front of which its doors stand.
	Network(cfg Network, h netio.Host) door.Below
	// Hand is told when a pool has something queued; see sched.Config.Manual.
	Hand() chan struct{}
	// Workers shows a pool that has been made. Its Manual is Hand.
	Workers(p *sched.Pool)
	// Loops brings what looks after callbacks that hold a loop up, to be called every
	// millisecond or so while a loop is inside a step.
	Loops(look func())
	// Files is how many descriptors may be open, Backlog how many connections may wait for
	// one listener.
	Files() int
	Backlog() int
}

// Network is what a server asks of its network.
type Network struct {
	Addrs      []string // as gnetio.Config has them
	Loops      int
	ReadBuffer int // bytes one read takes at most
	MaxRefused int
	Linger     time.Duration
	Logger     *slog.Logger
}
