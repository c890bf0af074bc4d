package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"time"
	"unicode/utf8"

	"millrace/codec"
	"millrace/engine/internal/perip"
)

// Dispatch says where a packet's OnSocketRead runs.
type Dispatch uint8

const (
	// Adaptive runs a handle inline once it has shown itself quick and its session's
	// strand is idle; all else goes to the workers. It is the default.
	Adaptive Dispatch = iota
	// Ordered runs every packet on the workers.
	Ordered
	// Inline runs every packet on its loop, unless its session's strand is busy. A
	// handler that blocks holds back every session of that loop.
	Inline
)

var dispatchNames = []string{"adaptive", "ordered", "inline"}

func (d Dispatch) String() string { return name(dispatchNames, int(d)) }

// MarshalText and UnmarshalText make Dispatch usable as a flag.
func (d Dispatch) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d *Dispatch) UnmarshalText(b []byte) error { return parse((*uint8)(d), dispatchNames, b) }

// AcceptMode says who accepts TCP connections.
type AcceptMode uint8

const (
	// AcceptReusePort gives each loop a listening socket of its own (SO_REUSEPORT);
	// the kernel spreads the connections. The default; Linux only.
	AcceptReusePort AcceptMode = iota
	// AcceptSingle has one accepting goroutine hand connections to loops by Balance.
	// It needs open files for a whole backlog on top of MaxConns.
	AcceptSingle
)

var acceptNames = []string{"reuseport", "single"}

func (a AcceptMode) String() string                { return name(acceptNames, int(a)) }
func (a AcceptMode) MarshalText() ([]byte, error)  { return []byte(a.String()), nil }
func (a *AcceptMode) UnmarshalText(b []byte) error { return parse((*uint8)(a), acceptNames, b) }

// Balance says how AcceptSingle chooses a loop.
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

// Config sets up a Server. Zero means the default that the field's comment names.
type Config struct {
	// Addrs are what to listen on: tcp://host:port, tcp4://, tcp6:// or unix:///path, or
	// behind the doors that Doors sets up tls://host:port, ws://host:port/path, wss:// and
	// auto://host:port, where the first bytes of a connection say which of the four it is;
	// tls+unix:///path, ws+unix:///path:/path, wss+unix, auto+unix. Port 0 binds a free one.
	// At least one.
	Addrs []string

	Layout   codec.Layout // the frame; zero is the default frame
	MaxFrame int          // bytes behind the length field; 64 KiB, or what that field can say
	// Framer finds and writes the frames instead of Layout, such as codec.Line; nil: none.
	// It has a limit of its own, and MaxFrame holds as well, but for 32 bytes around what
	// counts. Where its frames have no handles there are no system frames, every packet is
	// 0/0, and auto:// can't be. What it can't write is its own error, from Send and the rest.
	Framer codec.Framer `json:"-"`
	// Framings are for addresses whose frames are told apart in another way, by the address
	// as it stands in Addrs. Broadcasts and group sends reach their sessions too, encoded once
	// for each framing, and copied for each session; but what the framing can't say they
	// don't get.
	Framings map[string]Framing `json:"-"`

	Loops    int        // event loops; the number of CPUs that this process may use (GOMAXPROCS)
	Dispatch Dispatch   // where packets run; Adaptive
	Accept   AcceptMode // who accepts; AcceptReusePort on Linux
	Balance  Balance    // of AcceptSingle; RoundRobin

	// Handles fixes the dispatch of single handles, whatever Dispatch says: Ordered for
	// those that block, Inline for those known to be quick. Adaptive here means learn.
	Handles map[uint32]Dispatch

	// Pool runs what is not inline. Nil: the server makes, starts and stops one of its
	// own from Workers, SpareWorkers and MaxQueue.
	Pool         *Pool
	Workers      int // base workers; twice the number of CPUs that this process may use
	SpareWorkers int // more of them while all are blocked in handlers; 256, Off for none
	MaxQueue     int // functions waiting in Pool.Submit; 8,192

	// StallAfter is how long one callback may take before it is counted in Stats and
	// reported with its stack, while it lasts: in the log, at most once a second for each
	// place in the code, and to OnStall, which may be nil and is called on a goroutine of its
	// own, one at a time. All goroutines stand still while a stack is taken. 100 ms, Off for
	// none. With a Pool that was given, workers go by what that was made with.
	StallAfter time.Duration
	OnStall    func(Stall) `json:"-"`

	// Recorder has the last events of each session noted, in 512 bytes for each that count in
	// MemoryBudget; while that is exceeded new sessions get none. See Session.Flight and
	// Server.Flights. RecorderOff
	Recorder     Recorder
	RecorderKeep int // kept of what ended or stalled, of stalls, and of near misses, of each; 64
	// OnFlight, OnNearMiss: told of sessions that end badly or stall, where there is a Recorder,
	// and of limits that come near; on a goroutine of their own, one call at a time. At most
	// 1,024 calls wait. Nil: nobody.
	OnFlight   func(Flight)   `json:"-"`
	OnNearMiss func(NearMiss) `json:"-"`
	// Tap is shown what all sessions read and write; nil: nobody. It has events noted as well.
	Tap Tap `json:"-"`

	// Admit may refuse a connection before it is a session, by where it comes from (what a
	// trusted PROXY header said, where there is one). An error refuses with ERROR 8 and the
	// error's text; a panic refuses too. It is called on a loop, of which it holds up all
	// sessions: it must not block. Nil admits all.
	Admit func(remote net.Addr) error `json:"-"`

	// NoSystemFrames gives Main 0 to the handler: no PING, ERROR or GOAWAY.
	NoSystemFrames bool
	Heartbeat      time.Duration // PING to sessions silent for so long; 0 or Off = none

	Limits
	Timeouts
	Overload
	Socket
	Doors

	DrainRate   int    // sessions told GOAWAY in a second; 200, or as many as it takes to tell all in a quarter of the time
	DrainTo     string // an address that GOAWAY names, for clients to go to; none
	DrainBudget int    // sessions written in one turn of a drain; 256

	Logger *slog.Logger // nil: slog.Default()
}

// Limits bound what peers can make a Server hold. Stats counts what each refuses or closes.
type Limits struct {
	MaxConns      int // connections; 10,000 or what the open-file limit holds, if less
	MaxConnsPerIP int // connections from one address; 0 or Off = no limit
	// IPv6Prefix is how many bits of an IPv6 address count where something is limited for each
	// address (MaxConnsPerIP, AcceptRatePerIP, HandshakeRate): whoever has one address of a
	// network can use all of them. 1 to 128; 64. An IPv4 address counts whole, mapped or not.
	IPv6Prefix  int
	MaxRefused  int // refused connections kept open, at most for Linger, so that the ERROR reaches them; 32
	MaxOutbound int // bytes a session may leave unsent; 1 MiB
	MaxPending  int // bytes of memory of the requests that wait for one session's handler; 1 MiB
	MaxTasks    int // functions that wait in one Session.Submit; 1,024
	MaxOutbox   int // bytes of broadcasts, group sends and pushes waiting in one loop; 16 MiB
	// MemoryBudget is what all sessions together may hold, in bytes: requests that wait,
	// beginnings of frames, functions that wait, answers that are owed (see Session.Hold),
	// and answers, pushes and broadcasts that are unsent; 256 MiB. Past it, whoever holds
	// more than a fair share is not read from and waits for his peer to read, and broadcasts
	// and group sends from outside of callbacks are ErrMemory. Past it for 10 s, or past five quarters of it at once, sessions are closed
	// whose peers take nothing: first as slow consumers those with most unread that they did
	// not ask for. Loops count apart: all this goes by a figure that is off by a 64th at most.
	// When a load has ended, the memory is given back to the system.
	MemoryBudget int
	MaxGroups    int // groups of one session; 64
	// ResumeBytes is what is kept of one session, in bytes, that was sent and is not
	// acknowledged: with Resume no more is sent then until it is, and a session that waits for
	// its peer closes when it is sent more that the peer has not asked for. Answers count
	// until MaxOutbound too, in the larger of the two. A peer acknowledges after 64 frames or a
	// second: where it does no more than that, 64 of the usual frames should have room. 256 KiB.
	ResumeBytes int
}

// Timeouts bound how long a Server waits for its peers.
type Timeouts struct {
	FirstFrameTimeout time.Duration // accept to first whole frame; 10 s, Off for none
	FrameTimeout      time.Duration // first to last byte of a frame; 10 s, Off for none
	IdleTimeout       time.Duration // no whole frame for so long; 0 or Off = none
	FinTimeout        time.Duration // after the peer's FIN, to finish what is owed; 5 min
	// Resume is how long a session is kept whose connection breaks, so that its peer can come
	// back and go on where it was: index, round, groups and what is held for it stay, and what
	// is sent meanwhile is kept. Only peers that begin with a HELLO frame are waited for; every
	// connection is a session from its first frame on. It needs system frames. 0 or Off = never.
	Resume time.Duration
	Linger time.Duration // to send what is unsent at close, then to wait for the peer's FIN; 2 s
}

// Socket sets up connections and how they are read.
type Socket struct {
	ReadBuffer       int           // bytes one read takes at most, per loop; 64 KiB
	SocketRecvBuffer int           // SO_RCVBUF; 0 = the system's
	SocketSendBuffer int           // SO_SNDBUF; 0 = the system's
	Delay            bool          // leave TCP_NODELAY off
	KeepAlive        time.Duration // idle time before the first probe; 30 s, Off for none
	KeepAliveEvery   time.Duration // between probes; 10 s
	KeepAliveCount   int           // probes before the connection is dead; 3
	UserTimeout      time.Duration // sent to again and again and no acknowledgement for so long; 15 s, Off for none
	UnixMode         fs.FileMode   // permissions of unix sockets; 0 = what the umask leaves
}

// WithDefaults returns a copy with every zero that stands for a default filled in; what
// is Off stays Off. Two stay 0 when they are not set: MaxConns, which Start fits to the
// open-file limit, and MaxFrame, which New fits to the layout.
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

// inUse is what a server keeps of a config with its defaults: what is Off is 0 there.
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
	c.Overload.inUse()
	return c
}

// given is the config that inUse was made of: Off again where 0 would mean the default.
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

// ConfigError is one field that Config can't have.
type ConfigError struct {
	Field string // as in Config
	Value any
	Why   string // what is wrong and the way out
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("engine: %s = %v: %s", e.Field, e.Value, e.Why)
}

// validate reports every fault of a config in use.
func (c Config) validate() error {
	var errs []error
	bad := func(field string, v any, why string) {
		errs = append(errs, &ConfigError{field, v, why})
	}
	within := func(field string, v int, least, most int64) {
		if int64(v) < least || int64(v) > most {
			bad(field, v, fmt.Sprintf("must be %d to %d", least, most))
		}
	}
	if len(c.Addrs) == 0 {
		bad("Addrs", "none", "give at least one, such as tcp://127.0.0.1:7000")
	}
	if err := c.validateFraming(bad); err != nil {
		errs = append(errs, err)
	}
	c.validateDoors(bad)
	within("RecorderKeep", c.RecorderKeep, 1, 1<<16)
	within("Loops", c.Loops, 1, 1024)
	within("Workers", c.Workers, 1, 1<<16)
	within("SpareWorkers", c.SpareWorkers, 0, 1<<16)
	within("MaxQueue", c.MaxQueue, 1, 1<<24)
	within("MaxFrame", c.MaxFrame, 0, 1<<30)
	within("MaxConns", c.MaxConns, 0, 1<<24)
	within("MaxConnsPerIP", c.MaxConnsPerIP, 0, 1<<24)
	within("IPv6Prefix", c.IPv6Prefix, 1, 128)
	within("MaxRefused", c.MaxRefused, 1, 1<<24)
	within("MaxOutbound", c.MaxOutbound, 1<<10, 1<<30)
	within("MaxPending", c.MaxPending, 1<<10, 1<<30)
	within("MaxTasks", c.MaxTasks, 1, 1<<24)
	within("MaxOutbox", c.MaxOutbox, 1<<10, 1<<31-1)
	within("MemoryBudget", c.MemoryBudget, 1<<16, 1<<48)
	within("MaxGroups", c.MaxGroups, 1, 1<<16)
	within("ResumeBytes", c.ResumeBytes, 1<<10, 1<<30)
	within("MaxHandshakes", c.MaxHandshakes, 1, 1<<20)
	within("HandshakeRate", c.HandshakeRate, 0, 1<<20)
	within("MaxRatio", c.MaxRatio, 0, 1<<20)
	within("ReadBuffer", c.ReadBuffer, 1<<10, 16<<20)
	within("DrainRate", c.DrainRate, 0, 1<<24)
	within("DrainBudget", c.DrainBudget, 1, 1<<20)
	within("SocketRecvBuffer", c.SocketRecvBuffer, 0, 1<<30)
	within("SocketSendBuffer", c.SocketSendBuffer, 0, 1<<30)
	within("KeepAliveCount", c.KeepAliveCount, 1, 127)
	for _, d := range []struct {
		field string
		v     time.Duration
		least time.Duration
	}{
		{"StallAfter", c.StallAfter, 10 * time.Millisecond},
		{"FirstFrameTimeout", c.FirstFrameTimeout, 10 * time.Millisecond},
		{"FrameTimeout", c.FrameTimeout, 10 * time.Millisecond},
		{"IdleTimeout", c.IdleTimeout, 10 * time.Millisecond},
		{"Heartbeat", c.Heartbeat, 10 * time.Millisecond},
		{"Linger", c.Linger, time.Millisecond},
		{"HandshakeTimeout", c.HandshakeTimeout, 10 * time.Millisecond},
		{"FinTimeout", c.FinTimeout, time.Millisecond},
		{"Resume", c.Resume, 10 * time.Millisecond},
		{"KeepAlive", c.KeepAlive, time.Second},
		{"KeepAliveEvery", c.KeepAliveEvery, time.Second},
		{"UserTimeout", c.UserTimeout, time.Millisecond},
	} {
		if d.v != 0 && d.v < d.least {
			bad(d.field, d.v, fmt.Sprintf("must be at least %v, or off", d.least))
		}
	}
	if len(c.DrainTo) > maxDrainTo || len(c.DrainTo) > 0 && !utf8.ValidString(c.DrainTo) {
		bad("DrainTo", c.DrainTo, fmt.Sprintf("must be text of at most %d bytes", maxDrainTo))
	}
	if c.UnixMode&^fs.ModePerm != 0 {
		bad("UnixMode", fmt.Sprintf("%#o", uint32(c.UnixMode)), "must be permissions, such as 0660")
	}
	if int(c.Dispatch) >= len(dispatchNames) {
		bad("Dispatch", uint8(c.Dispatch), "must be Adaptive, Ordered or Inline")
	}
	if int(c.Accept) >= len(acceptNames) {
		bad("Accept", uint8(c.Accept), "must be AcceptReusePort or AcceptSingle")
	}
	if int(c.Recorder) >= len(recorderNames) {
		bad("Recorder", uint8(c.Recorder), "must be RecorderOff, RecorderErrors or RecorderOn")
	}
	if int(c.Balance) >= len(balanceNames) {
		bad("Balance", uint8(c.Balance), "must be RoundRobin, LeastConnections or SourceHash")
	}
	if c.Heartbeat > 0 && c.NoSystemFrames {
		bad("Heartbeat", c.Heartbeat, "needs system frames, which NoSystemFrames turns off")
	}
	c.validateResume(bad)
	c.Overload.validate(bad)
	return errors.Join(errs...)
}

const (
	drainTick  = 20 * time.Millisecond
	drainQuiet = 120 * time.Millisecond // GOAWAY to FIN, and the last request to FIN; 100 ms are promised

	insistAfter = 2 * time.Second // GOAWAY to FIN for a client that never is quiet

	// drainRate is DrainRate's default, unless telling all within a quarter of the time
	// takes more.
	drainRate = 200

	maxDrainTo = 256 // bytes of DrainTo
)
