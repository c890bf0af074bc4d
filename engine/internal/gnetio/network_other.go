//go:build !linux

package gnetio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"

	"millrace/engine/internal/netio"
)

// Elsewhere than on Linux the package compiles, so that programs which only sometimes
// serve can be built, and Start says that it can't run: it writes sockets and pauses
// reading through epoll.

// Network can't run on this system.
type Network struct{}

// New makes a Network that can't start.
func New(Config, netio.Host) *Network { return &Network{} }

// Start returns an error that is errors.ErrUnsupported.
func (*Network) Start(context.Context) error {
	return fmt.Errorf("%w on %s: the engine needs epoll, which is Linux's", errors.ErrUnsupported, runtime.GOOS)
}

func (*Network) Stop(context.Context) error { return nil }
func (*Network) Addrs() []net.Addr          { return nil }
func (*Network) Pausable() bool             { return false }
func (*Network) Guard()                     {}
func (*Network) Listener(net.Addr) int      { return -1 }

// OpenFileLimit and Backlog are guesses here.
func OpenFileLimit() int { return 1 << 20 }
func Backlog() int       { return 128 }
