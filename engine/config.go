package engine

import (
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"time"

	"millrace/codec"
	"millrace/engine/internal/perip"
)

// Dispatch says on which goroutine a packet's OnSocketRead runs.
type Dispatch uint8

const (
	// Adaptive runs a handle inline if it has proved quick and its session's strand is idle;
	// everything else runs on the workers. It is the default.
	Adaptive Dispatch = iota
	// Ordered runs every packet on the workers.
	Ordered
	// Inline runs every packet on its loop, unless its session's strand is busy. A handler that
	// blocks delays every session of that loop.
	Inline
)

var dispatchNames = []string{"adaptive", "ordered", "inline"}

func (d Dispatch) String() string { return name(dispatchNames, int(d)) }

// MarshalText and UnmarshalText make Dispatch usable as a flag.
func (d Dispatch) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d *Dispatch) UnmarshalText(b []byte) error { return parse((*uint8)(d), dispatchNames, b) }

// AcceptMode says how TCP connections are accepted.
type AcceptMode uint8

const (
	// AcceptReusePort gives each loop its own listening socket (SO_REUSEPORT); the kernel
	// distributes the connections. The default; Linux only.
	AcceptReusePort AcceptMode = iota
	// AcceptSingle uses one accepting goroutine, which assigns connections to loops by Balance. It
	// needs open files for a whole backlog in addition to MaxConns.
	AcceptSingle
)

var acceptNames = []string{"reuseport", "single"}

func (a AcceptMode) String() string                { return name(acceptNames, int(a)) }
func (a AcceptMode) MarshalText() ([]byte, error)  { return []byte(a.String()), nil }
func (a *AcceptMode) UnmarshalText(b []byte) error { return parse((*uint8)(a), acceptNames, b) }

// Balance says how AcceptSingle selects a loop.
type Balance uint8

const (
	RoundRobin Balance = iota
	LeastConnections
	SourceHash // by the peer's address
)

var balanceNames = []string{"round-robin", "least-connections", "source-hash"}

func (l Balance) String() string                { return name(balanceNames, int(l)) }
func (l Balance) MarshalText() ([]byte, error)  { return []byte(l.String()), nil }
func (l *Balance) UnmarshalText(b []byte) error { return parse((*uint8)(l), balanceNames, b) }

// Config configures a Server. Zero means the default that the field's comment names.
type Config struct {
	// Addrs are the addresses to listen on: tcp://host:port, tcp4://, tcp6:// or unix:///path, or
	// with the protocols that Doors configures tls://host:port, ws://host:port/path, wss:// and
	// auto://host:port, where the first bytes of a connection select one of the four;
	// tls+unix:///path, ws+unix:///path:/path, wss+unix, auto+unix. Port 0 binds a free one. At
	// least one is required.
	Addrs []string

	Layout   codec.Layout // the frame; zero is the default frame
	MaxFrame int          // bytes after the length field; 64 KiB, or the largest value of that field
	// Framer reads and writes the frames instead of Layout, such as codec.Line; nil for none. It
	// may have its own limit; MaxFrame applies too, not counting up to 32 bytes of length or
	// delimiter. If its frames have no handles, there are no system frames, every packet is 0/0,
	// and auto:// is not possible. If it can't represent a packet, Send and the other methods
	// return its error.
	Framer codec.Framer `json:"-"`
	// Framings sets another framing for some addresses, by the address as written in Addrs.
	// Broadcasts and group sends reach their sessions too, encoded once for each framing, and
	// copied for each session; packets that a framing can't represent are not sent to its sessions.
	Framings map[string]Framing `json:"-"`

	Loops    int        // event loops; the number of CPUs that this process may use (GOMAXPROCS)
	Dispatch Dispatch   // where packets run; Adaptive
	Accept   AcceptMode // how connections are accepted; AcceptReusePort on Linux
	Balance  Balance    // for AcceptSingle; RoundRobin

	// Handles sets the dispatch of single handles, overriding Dispatch: Ordered for those that
	// block, Inline for those known to be quick. Adaptive here means that the handle is measured.
	Handles map[uint32]Dispatch

	// Pool runs everything that is not inline. If nil, the server creates, starts and stops its
	// own, with Workers, SpareWorkers and MaxQueue.
	Pool         *Pool
	Workers      int // base workers; twice the number of CPUs that this process may use
	SpareWorkers int // most additional workers while all are blocked in handlers; 256, Off for none
	MaxQueue     int // functions waiting in Pool.Submit; 8,192

	// StallAfter is how long one callback may take before it is counted in Stats and reported with
	// its stack, while it is running: in the log, at most once a second for each place in the code,
	// and to OnStall, which may be nil and is called on a separate goroutine, one call at a time.
	// Taking a stack stops all goroutines. Packets of handles that Handles or SetDispatch declare
	// Ordered may take 50 times as long. 100 ms, Off for none. With a Pool that was given, that
	// pool's setting applies to workers.
	StallAfter time.Duration
	OnStall    func(Stall) `json:"-"`

	// Recorder records the last events of each session, in 512 bytes for each, which count towards
	// MemoryBudget; while that is exceeded new sessions are not recorded. See Session.Flight and
	// Server.Flights. RecorderOff
	Recorder     Recorder
	RecorderKeep int // how many recordings, stalls and near misses are kept, of each; 64
	// OnFlight is called for sessions that end with an error or stall, if there is a Recorder, and
	// OnNearMiss for limits that are nearly reached; on a separate goroutine, one call at a time.
	// At most 1,024 calls wait. They may be nil.
	OnFlight   func(Flight)   `json:"-"`
	OnNearMiss func(NearMiss) `json:"-"`
	// Tap receives everything that sessions read and write; nil for none. It enables the recording
	// of events as well.
	Tap Tap `json:"-"`

	// Admit may refuse a connection before it becomes a session, by its address (from a trusted
	// PROXY header, if there is one). An error refuses it with ERROR 8 and the error's text; a
	// panic refuses it too. Admit is called on a loop, so it must not block: it would delay all
	// sessions of the loop. If nil, all connections are admitted.
	Admit func(remote net.Addr) error `json:"-"`

	// NoSystemFrames leaves Main 0 to the handler: there is no PING, ERROR or GOAWAY.
	NoSystemFrames bool
	Heartbeat      time.Duration // silence after which a session is sent PING; 0 or Off = none

	Limits
	Timeouts
	Overload
	Socket
	Doors

	DrainRate   int    // sessions sent GOAWAY in a second; 200, or as many as needed to reach all in a quarter of the time
	DrainTo     string // address in GOAWAY for clients to reconnect to; none
	DrainBudget int    // most sessions written in one flush pass; 256

	Logger *slog.Logger // nil: slog.Default()
}

// Limits limit what peers can make a Server hold. Stats counts what each refuses or closes.
type Limits struct {
	MaxConns      int // connections; 10,000, or as many as the open-file limit allows, if less
	MaxConnsPerIP int // connections from one address; 0 or Off = no limit
	// IPv6Prefix is the prefix length by which per-address limits (MaxConnsPerIP, AcceptRatePerIP,
	// HandshakeRate) group IPv6 addresses, because a client with one address of a network can
	// usually use all of them. 1 to 128; 64. IPv4 addresses are counted separately, mapped or not.
	IPv6Prefix  int
	MaxRefused  int // refused connections kept open, for up to Linger, so that the ERROR reaches the client; 32
	MaxOutbound int // bytes a session may leave unsent; 1 MiB
	MaxPending  int // bytes of memory of the requests waiting for one session's handler; 1 MiB
	MaxTasks    int // functions waiting in one session (Session.Submit); 1,024
	MaxOutbox   int // bytes of broadcasts, group sends and pushes waiting in one loop; 16 MiB
	// MemoryBudget is the memory that all sessions together may hold, in bytes: waiting requests,
	// partial frames, waiting functions, pending answers (see Session.Hold), and unsent answers,
	// pushes and broadcasts; 256 MiB. Above it, sessions that hold more than a fair share are not
	// read and wait for their peers to read, and broadcasts and group sends from outside of
	// callbacks return ErrMemory. When it is exceeded for 10 s, or by a quarter at any time,
	// sessions whose peers do not read are closed: first, as slow consumers, those with the most
	// unsolicited bytes unread. Loops count separately, so decisions are based on a total that is
	// off by at most 1/64. After a load has ended, memory is returned to the system.
	MemoryBudget int
	MaxGroups    int // groups of one session; 64
	// ResumeBytes limits the bytes of one session that were sent and not acknowledged: with Resume
	// nothing more is sent at the limit until some are, and a session without a connection closes
	// when more unsolicited data is sent to it. Answers count until MaxOutbound too, in the larger
	// of the two. A peer acknowledges after 64 frames or a second: for peers that do no more than
	// that, 64 typical frames should fit. If acknowledgements are queued behind more requests than
	// MaxPending allows, the larger of the two is sent, and above half of it the oldest dropped
	// once the peer's kernel has it: for peers that pipeline so many, half of the larger
	// should be at least their receive buffer, or a session is lost when its connection breaks. 256 KiB.
	ResumeBytes int
}

// Timeouts limit how long a Server waits for its peers.
type Timeouts struct {
	FirstFrameTimeout time.Duration // accept to first complete frame; 10 s, Off for none
	FrameTimeout      time.Duration // first to last byte of a frame; 10 s, Off for none
	IdleTimeout       time.Duration // time without a complete frame; 0 or Off = none
	FinTimeout        time.Duration // after the peer's FIN, to send pending answers; 5 min
	// Resume is how long a session is kept after its connection is lost, so that its peer can
	// resume it: index, round, groups and everything held for the session are kept, and data sent
	// meanwhile is stored. This applies only to peers that begin with a HELLO frame; connections
	// become sessions only with their first frame. It needs system frames. 0 or Off = never.
	Resume time.Duration
	// Handover is how long a draining server keeps a session whose connection has ended, and
	// that can be resumed, for another server to take it over; 5 s, Off for not at all. It
	// counts only while there is another: see Server.SetOtherServers.
	Handover time.Duration
	Linger   time.Duration // to send what is unsent at close, then to wait for the peer's FIN; 2 s
}

// Socket configures connections and how they are read.
type Socket struct {
	ReadBuffer       int           // bytes one read takes at most, per loop; 64 KiB
	SocketRecvBuffer int           // SO_RCVBUF; 0 = the system's
	SocketSendBuffer int           // SO_SNDBUF; 0 = the system's
	Delay            bool          // leave TCP_NODELAY off
	KeepAlive        time.Duration // idle time before the first probe; 30 s, Off for none
	KeepAliveEvery   time.Duration // between probes; 10 s
	KeepAliveCount   int           // unanswered probes before the connection is considered dead; 3
	UserTimeout      time.Duration // time without acknowledgement of sent data before the connection is considered dead; 15 s, Off for none
	UnixMode         fs.FileMode   // permissions of unix sockets; 0 = those that the umask leaves
}

// WithDefaults returns a copy with defaults for all zero fields; Off stays Off. Two fields stay 0
// if they are not set: MaxConns, which Start adapts to the open-file limit, and MaxFrame, which New
// adapts to the layout.
func (c Config) WithDefaults() Config {
	or(&c.Loops, runtime.GOMAXPROCS(0))
	or(&c.Workers, 2*runtime.GOMAXPROCS(0))
	or(&c.SpareWorkers, 256)
	or(&c.MaxQueue, 8192)
	or(&c.StallAfter, stallAfter)
	or(&c.RecorderKeep, 64)
	or(&c.IPv6Prefix, perip.DefaultBits)
	or(&c.MaxRefused, 32)
	or(&c.MaxOutbound, 1<<20)
	or(&c.MaxPending, 1<<20)
	or(&c.MaxTasks, 1024)
	or(&c.MaxOutbox, 16<<20)
	or(&c.MemoryBudget, 256<<20)
	or(&c.MaxGroups, 64)
	or(&c.ResumeBytes, 256<<10)
	or(&c.FirstFrameTimeout, 10*time.Second)
	or(&c.FrameTimeout, 10*time.Second)
	or(&c.FinTimeout, 5*time.Minute)
	or(&c.Handover, 5*time.Second)
	or(&c.Linger, 2*time.Second)
	or(&c.HandshakeTimeout, 5*time.Second)
	or(&c.MaxHandshakes, 256)
	or(&c.MaxRatio, 200)
	or(&c.ReadBuffer, 64<<10)
	or(&c.KeepAlive, 30*time.Second)
	or(&c.KeepAliveEvery, 10*time.Second)
	or(&c.KeepAliveCount, 3)
	or(&c.UserTimeout, 15*time.Second)
	or(&c.DrainBudget, 256)
	or(&c.Logger, slog.Default())
	return c
}

// inUse returns the form of a config with defaults that the server uses, in which Off is 0.
func (c Config) inUse() Config {
	swap(&c.SpareWorkers, Off, 0)
	swap(&c.StallAfter, Off, 0)
	swap(&c.MaxConnsPerIP, Off, 0)
	swap(&c.HandshakeRate, Off, 0)
	swap(&c.MaxRatio, Off, 0)
	swap(&c.FirstFrameTimeout, Off, 0)
	swap(&c.FrameTimeout, Off, 0)
	swap(&c.IdleTimeout, Off, 0)
	swap(&c.KeepAlive, Off, 0)
	swap(&c.UserTimeout, Off, 0)
	swap(&c.Heartbeat, Off, 0)
	swap(&c.Resume, Off, 0)
	swap(&c.Handover, Off, 0)
	c.Overload.inUse()
	return c
}

// given reverses inUse: it returns Off again where 0 would mean the default.
func (c Config) given() Config {
	swap(&c.SpareWorkers, 0, Off)
	swap(&c.MaxRatio, 0, Off)
	swap(&c.StallAfter, 0, Off)
	swap(&c.FirstFrameTimeout, 0, Off)
	swap(&c.FrameTimeout, 0, Off)
	swap(&c.KeepAlive, 0, Off)
	swap(&c.UserTimeout, 0, Off)
	return c
}
