package engine

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/bucket"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/door"
	"millrace/engine/internal/machine"
	"millrace/engine/internal/perip"
	"millrace/engine/internal/replay"
	"millrace/engine/internal/sched"
	"millrace/internal/tally"
)

// Server listens, and runs a Handler's callbacks for the sessions of its peers.
//
// Fields read for each frame come first, and fields written for each connection, broadcast or fault
// after them, on separate cache lines: a write invalidates the line in every processor that reads
// from it.
type Server struct {
	cfg      Config
	framing  *framing   // framing of most sessions
	framings []*framing // by index in Addrs; nil if all are the same
	pool     *Pool
	ownPool  bool
	net      network
	machine  machine.Machine // environment; nil for the operating system
	panics   *sched.Panics
	stalls   *sched.Watch // watches inline turns; nil if stalls are not reported
	epoch    time.Time

	h        atomic.Pointer[Handler]
	table    *table
	loops    atomic.Pointer[[]*loop] // copied on write, under loopMu
	handles  handles
	waits    *waits                     // nil if requests may wait without limit
	adjusted atomic.Pointer[Adjustable] // replaced under mu; never modified in place
	taps     bool                       // events of sessions are recorded, or passed to Config.Tap
	budget   *budget.Budget             // each loop counts in its own part
	share    atomic.Int64               // how much one session may hold unsent before its strand waits

	nearPending int           // bytes from which on MaxPending is nearly reached
	started     chan struct{} // closed when Start has returned
	ended       chan struct{} // closed when Stop has
	quit        chan struct{} // ends the background goroutines
	done        chan struct{} // closed when the server has stopped or failed
	tickNow     chan struct{}
	rearm       chan *loop
	watch       chan struct{} // wakes watchLoops
	watching    atomic.Bool   // watchLoops is awake

	serving     atomic.Bool  // started, and not yet stopped
	draining    atomic.Bool  // no longer accepts connections
	drainFrom   atomic.Int64 // when the drain began, on the server's clock
	refuseAfter atomic.Int64 // how long after its GOAWAY a session's requests are served, in nanoseconds
	fdShed      atomic.Int64 // a descriptor of this number or more is refused
	fast        atomic.Bool  // the ticker runs faster: the server drains

	_           [64]byte // from here on: written for each connection
	perIP       perip.Counter
	acceptRate  bucket.Shared
	acceptMu    tally.Mutex
	acceptPerIP perip.Rate           // guarded by acceptMu
	tokens      replay.Tokens[*line] // of sessions that can be resumed
	conns       atomic.Int64
	pending     atomic.Int64 // connections waiting for their first frame
	waiting     atomic.Int64 // sessions waiting to be resumed
	closes      [reasonCount]atomic.Uint64
	refused     [refusalCount]atomic.Uint64
	carrier     atomic.Pointer[OtherServers] // nil: sessions stay here
	detaches    atomic.Uint64                // connections that broke of sessions that can be resumed
	resumed     atomic.Uint64                // and sessions that went on
	takenOver   atomic.Uint64                // sessions that came from other servers
	goAways     atomic.Uint64                // sessions told that the server drains

	_      [64]byte // for each broadcast, group send, join and leave
	groups groups
	flow   flow
	others others    // sessions with another framing, or whose framing may change
	mute   sync.Once // logs a framing that can't write an ERROR
	casts  atomic.Uint64

	_     [64]byte // written for each turn, with Config.Costs or SessionCPU
	costs costs

	_         [64]byte // written rarely
	loopMu    sync.Mutex
	flights   flights
	kept      int // memory of kept recordings in the memory budget, in bytes
	stallLog  lastN[Stall]
	nears     nears
	nearCount [limitCount]atomic.Uint64
	hooks     hooks
	hooksLost atomic.Uint64

	mu       sync.Mutex
	state    serverState // guarded by mu
	failure  error       // guarded by mu
	bg       sync.WaitGroup
	drainMu  sync.Mutex // serializes Drain, Undrain and their end by Stop
	drainRun *drainRun  // guarded by drainMu; the drain begun by Drain, or nil
	stopping bool       // guarded by mu; a Stop is in progress

	starving atomic.Int32 // sessions paused because of the budget
	limited  [throttleCount]atomic.Uint64
	sum      sums // counts for no loop's sessions, or for all
	demoted  atomic.Uint64

	acceptErrors atomic.Uint64
	glutSince    atomic.Int64  // since when the budget has been exceeded; 0 if it is not
	shed         atomic.Uint64 // sessions closed because of the budget
}

// network provides the connections; see door and gnetio.
type network interface {
	Start(ctx context.Context) error
	Addrs() []net.Addr
	URLs() []string
	Listener(a net.Addr) int
	Stats() door.Stats
	Guard()
	Stop(ctx context.Context) error
}

type serverState uint8

const (
	serverNew serverState = iota
	serverStarting
	serverRunning
	serverStopping
	serverStopped
)

// SetHandler changes the handler, also while the server runs. Running callbacks finish with the old
// one; all later callbacks use the new one.
func (srv *Server) SetHandler(h Handler) { srv.h.Store(&h) }

func (srv *Server) handler() Handler { return *srv.h.Load() }

// allLoops returns the loops seen so far.
func (srv *Server) allLoops() []*loop { return *srv.loops.Load() }

// now returns nanoseconds since the server was created, at least 1.
func (srv *Server) now() int64 { return int64(time.Since(srv.epoch)) + 1 }

// Pool returns the pool that the strands run on.
func (srv *Server) Pool() *Pool { return srv.pool }

// Logger returns Config.Logger.
func (srv *Server) Logger() *slog.Logger { return srv.cfg.Logger }

// Config returns the present configuration, with defaults, Off for settings that are off, and
// changes by Adjust: New creates an equal server from it.
func (srv *Server) Config() Config {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	c := srv.cfg
	srv.adjusted.Load().put(&c)
	return c.given()
}

// Draining reports whether Stop or Drain has begun.
func (srv *Server) Draining() bool { return srv.draining.Load() }

// Running reports whether the server serves.
func (srv *Server) Running() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.state == serverRunning
}

// Addrs returns the listen addresses, with the bound ports.
func (srv *Server) Addrs() []net.Addr { return srv.net.Addrs() }

// Done returns a channel that is closed when the server has stopped, or failed while running: see
// Err.
func (srv *Server) Done() <-chan struct{} { return srv.done }

// Err returns why the server failed while running; nil if it did not.
func (srv *Server) Err() error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.failure
}

// Session returns a session that has not begun to close; nil if there is none.
func (srv *Server) Session(id ID) *Session {
	if s := srv.table.lookup(id); s != nil && s.Connected() {
		return s
	}
	return nil
}

// Conns returns how many sessions have a slot.
func (srv *Server) Conns() int { return srv.table.count() }

// Sessions calls fn for every session that has not begun to close, until it returns false, on the
// caller's goroutine.
func (srv *Server) Sessions(fn func(*Session) bool) {
	srv.table.each(func(s *Session) bool { return !s.Connected() || fn(s) })
}

// Send is Session.Send by ID. It returns ErrClosed if that session has closed.
func (srv *Server) Send(id ID, main, sub uint16, body []byte) error {
	s := srv.Session(id)
	if s == nil {
		srv.sum.stale.Add(1)
		return ErrClosed
	}
	return s.Send(main, sub, body)
}

// CloseSocket is Session.Close by ID.
func (srv *Server) CloseSocket(id ID) error {
	s := srv.Session(id)
	if s == nil {
		return ErrClosed
	}
	return s.Close()
}

// fail records why the server ended by itself.
func (srv *Server) fail(err error) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.failure != nil {
		return
	}
	switch srv.state {
	case serverStarting:
		srv.failure = err
	case serverRunning:
		srv.failure = err
		srv.state = serverStopping
		close(srv.done)
	}
}
