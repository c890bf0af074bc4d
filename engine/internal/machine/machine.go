// Package machine has the interface between a server and what it runs on. A simulation implements it
// with a network, workers and limits of its own. A server without a Machine uses the operating
// system directly.
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
	// Network makes a server's network, below the layers of package door.
	Network(cfg Network, h netio.Host) door.Below
	// Hand returns the channel that is sent to when a pool has work; see sched.Config.Manual.
	Hand() chan struct{}
	// Workers is called with each pool that is made. Its Config.Manual is Hand.
	Workers(p *sched.Pool)
	// Loops passes the function that detects callbacks that block a loop. It must be called about
	// every millisecond while a loop is running something.
	Loops(look func())
	// Files returns how many descriptors may be open, Backlog how many connections one listener
	// may queue.
	Files() int
	Backlog() int
}

// Network configures a server's network.
type Network struct {
	Addrs      []string // as gnetio.Config has them
	Loops      int
	ReadBuffer int // bytes one read takes at most
	MaxRefused int
	Linger     time.Duration
	Logger     *slog.Logger
}
