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
// What is read for each frame stands in front, and what is written for each connection,
// broadcast or fault behind it, apart: a write takes the whole of a cache line away from
// every processor that reads any of it.
type Server struct {
	cfg      Config
	framing  *framing   // of most sessions
	framings []*framing // by Addrs; nil: all have the same
	pool     *Pool
	ownPool  bool
	net      network
	machine  machine.Machine // what it runs on; nil: the operating system
	panics   *sched.Panics
	stalls   *sched.Watch // of inline turns; nil: they are not reported
	epoch    time.Time

	h        atomic.Pointer[Handler]
	table    *table
	loops    atomic.Pointer[[]*loop] // copied on write, under loopMu
	handles  handles
	waits    *waits                     // nil: requests may wait
	adjusted atomic.Pointer[Adjustable] // replaced under mu; never changed in place
	taps     bool                       // the events of sessions are noted, or shown to Config.Tap
	budget   *budget.Budget             // a loop counts in its own part
	share    atomic.Int64               // what one session may hold unsent before its strand waits

	nearPending int           // from how much on MaxPending is near
	started     chan struct{} // closed when Start has returned
	ended       chan struct{} // closed when Stop has
	quit        chan struct{} // ends the background goroutines
	done        chan struct{} // closed when the server has stopped or failed
	tickNow     chan struct{}
	rearm       chan *loop
	watch       chan struct{} // wakes watchLoops
	watching    atomic.Bool   // it is awake

	serving     atomic.Bool  // started, and not yet stopped
	draining    atomic.Bool  // accepts no more
	drainFrom   atomic.Int64 // when the drain began, on the server's clock
	refuseAfter atomic.Int64 // how long after its GOAWAY a session's requests are served, in nanoseconds
	fdShed      atomic.Int64 // a descriptor of this number or more is refused
	fast        atomic.Bool  // the ticker is in a hurry: the server drains

	_           [64]byte // from here on: for each connection
	perIP       perip.Counter
	acceptRate  bucket.Shared
	acceptMu    tally.Mutex
	acceptPerIP perip.Rate           // guarded by acceptMu
	tokens      replay.Tokens[*line] // of sessions that can be resumed
	conns       atomic.Int64
	pending     atomic.Int64 // connections whose first frame is to come
	waiting     atomic.Int64 // sessions that wait for their peers to come back
	closes      [reasonCount]atomic.Uint64
	refused     [refusalCount]atomic.Uint64
	detaches    atomic.Uint64 // connections that broke of sessions that can be resumed
	resumed     atomic.Uint64 // and sessions that went on
	goAways     atomic.Uint64 // sessions told that the server drains

	_      [64]byte // for each broadcast, group send, join and leave
	groups groups
	flow   flow
	others others // sessions that have another framing, or may
	casts  atomic.Uint64

	_     [64]byte // for each turn, if Config.Costs or SessionCPU asks for that
	costs costs

	_         [64]byte // for what is rare
	loopMu    sync.Mutex
	flights   flights
	kept      int // what those that are kept take of the memory budget, in bytes
	stallLog  lastN[Stall]
	nears     nears
	nearCount [limitCount]atomic.Uint64
	hooks     hooks
	hooksLost atomic.Uint64

	mu       sync.Mutex
	state    serverState // guarded by mu
	failure  error       // guarded by mu
	bg       sync.WaitGroup
	drainMu  sync.Mutex // Drain and Undrain one at a time, and Stop's end of both
	drainRun *drainRun  // guarded by drainMu; what Drain has begun; nil: nothing
	stopping bool       // guarded by mu; a Stop is under way

	starving atomic.Int32 // sessions not read from because of the budget
	limited  [throttleCount]atomic.Uint64
	sum      sums // of what is done to no loop's sessions, or to all
	demoted  atomic.Uint64

	acceptErrors atomic.Uint64
	glutSince    atomic.Int64  // since when the budget has been exceeded; 0: it is not
	shed         atomic.Uint64 // sessions closed for it
}

// network is what brings the connections; see door and gnetio.
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

// SetHandler changes the handler, also while the server runs. Callbacks that have begun
// end with the old one; every later callback is the new one's.
func (srv *Server) SetHandler(h Handler) { srv.h.Store(&h) }

func (srv *Server) handler() Handler { return *srv.h.Load() }

// allLoops are the loops that have been seen so far.
func (srv *Server) allLoops() []*loop { return *srv.loops.Load() }

// now is nanoseconds since the server was made, at least 1.
func (srv *Server) now() int64 { return int64(time.Since(srv.epoch)) + 1 }

// Pool is the pool that the strands run on.
func (srv *Server) Pool() *Pool { return srv.pool }

// Logger is Config.Logger.
func (srv *Server) Logger() *slog.Logger { return srv.cfg.Logger }

// Config is what the server runs with, defaults filled in and Off where there is no limit
// or timeout, and as Adjust has changed it: New makes the same server of it.
func (srv *Server) Config() Config {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	c := srv.cfg
	srv.adjusted.Load().put(&c)
	return c.given()
}

// Draining tells whether Stop or Drain has begun.
func (srv *Server) Draining() bool { return srv.draining.Load() }

// Running tells whether the server serves.
func (srv *Server) Running() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.state == serverRunning
}

// Addrs are the addresses that are listened on, with the ports that were bound.
func (srv *Server) Addrs() []net.Addr { return srv.net.Addrs() }

// Done is closed when the server has stopped, or failed while running: see Err.
func (srv *Server) Done() <-chan struct{} { return srv.done }

// Err is why the server failed while running; nil when it did not.
func (srv *Server) Err() error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.failure
}

// Session finds a session that has not begun to close; nil when it has gone.
func (srv *Server) Session(id ID) *Session {
	if s := srv.table.lookup(id); s != nil && s.Connected() {
		return s
	}
	return nil
}

// Conns is how many sessions have a slot.
func (srv *Server) Conns() int { return srv.table.count() }

// Sessions calls fn for every session that has not begun to close, until it returns
// false, on the caller's goroutine.
func (srv *Server) Sessions(fn func(*Session) bool) {
	srv.table.each(func(s *Session) bool { return !s.Connected() || fn(s) })
}

// Send is Session.Send by ID. ErrClosed when that session has gone.
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

// fail notes why the server ended by itself.
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
