package gnetio

import (
	"io/fs"
	"log/slog"
	"time"
)

// Balance says how a single acceptor chooses a loop.
type Balance uint8

const (
	RoundRobin Balance = iota
	LeastConnections
	SourceHash // by the peer's address
)

// Config sets up a Network. The caller fills in the defaults: a zero is what the field's
// comment says.
type Config struct {
	Addrs   []string // tcp://host:port, tcp4://, tcp6:// or unix:///path; port 0 is a free one
	Loops   int      // at least 1; as many again where TCP and unix addresses are mixed
	Single  bool     // one goroutine accepts all TCP; false: each loop does (SO_REUSEPORT)
	Balance Balance  // of the goroutine that accepts alone; unix sockets always have one

	ReadBuffer       int           // bytes one read takes at most
	ReadByGnet       bool          // no loop reads by itself
	SocketRecvBuffer int           // SO_RCVBUF; 0: the system's
	SocketSendBuffer int           // SO_SNDBUF; 0: the system's
	Delay            bool          // leave TCP_NODELAY off
	KeepAlive        time.Duration // idle time before the first probe; 0: none
	KeepAliveEvery   time.Duration // between probes
	KeepAliveCount   int           // probes before the connection is dead
	UserTimeout      time.Duration // probes of a closed window come at least thrice in it; 0: as the system does

	MaxRefused int           // refused connections kept until the peer has read why
	Linger     time.Duration // how long they are kept at most

	UnixMode fs.FileMode  // permissions of unix sockets; 0: as the umask makes them
	Logger   *slog.Logger // must be set
}
