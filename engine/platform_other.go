//go:build !linux

package engine

import (
	"fmt"
	"net"
	"runtime"

	"github.com/panjf2000/gnet/v2"
)

// Elsewhere than on Linux the engine compiles, so that programs which only sometimes
// serve can be built, and Start says that it can't run: it writes sockets and pauses
// reading through epoll.

type platform struct{}

func (*platform) start(*Server) error {
	return fmt.Errorf("%w on %s: the engine needs epoll, which is Linux's", ErrUnsupported, runtime.GOOS)
}
func (*platform) stop()         {}
func (*platform) guard(*Server) {}

func (*platform) discoverAcceptor([]net.Addr) {}

type sys struct{}

func (*sys) discover(*reactor, gnet.Conn) {}
func (*sys) idle() bool                   { return false }

type probe struct{}

func (*probe) open(*loop, gnet.Conn) {}
func (*probe) hear() gnet.Action     { return gnet.Close }

func (*reactor) probeLoops() error { return ErrUnsupported }
func (*reactor) acceptFailed()     {}

type sock struct{ wire }

func newSession(*loop, gnet.Conn) *Session    { return new(Session) }
func (*sock) traffic([]byte) gnet.Action      { return gnet.Close }
func sayGoodbye(int, []byte)                  {}
func emptyInput(int)                          {}
func openFileLimit() int                      { return 1 << 20 }
func listenBacklog() int                      { return 128 }
func (srv *Server) bind(addr) (*bound, error) { return nil, ErrUnsupported }
