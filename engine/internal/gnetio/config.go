package gnetio

import (
	"io/fs"
	"log/slog"
	"time"
)

// Balance is how a single acceptor chooses the loop of a new connection.
type Balance uint8

const (
	RoundRobin Balance = iota
	LeastConnections
	SourceHash // by the peer's address
)

// Config sets up a Network. There are no defaults: a zero means what the field's comment
// says.
type Config struct {
	Addrs   []string // tcp://host:port, tcp4://, tcp6:// or unix:///path; port 0 is a free one
	Loops   int      // at least 1; with both TCP and unix addresses each kind gets so many
	Single  bool     // one goroutine accepts all TCP connections; false: each loop does (SO_REUSEPORT)
	Balance Balance  // where one goroutine accepts: with Single, and always for unix sockets

	ReadBuffer       int           // most bytes of one read
	ReadByGnet       bool          // gnet reads the connections
	SocketRecvBuffer int           // SO_RCVBUF in bytes; 0: the system's default
	SocketSendBuffer int           // SO_SNDBUF in bytes; 0: the system's default
	Delay            bool          // leave TCP_NODELAY off
	KeepAlive        time.Duration // TCP_KEEPIDLE, the idle time before the first probe; 0: no keep-alive
	KeepAliveEvery   time.Duration // TCP_KEEPINTVL, the time between probes
	KeepAliveCount   int           // TCP_KEEPCNT, unanswered probes after which the connection is dead
	UserTimeout      time.Duration // a closed window is probed three times in it, but not more than once a second; 0: as the system does

	MaxRefused int           // refused connections kept open, so that their peers can read the reason
	Linger     time.Duration // how long they are kept

	UnixMode fs.FileMode  // permissions of unix sockets; 0: those the umask leaves
	Logger   *slog.Logger // must be set
}
