package engine

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
)

// Server listens, and runs a Handler's callbacks for the sessions of its peers.
type Server struct {
	cfg     Config
	codec   *codec.Codec
	pool    *Pool
	ownPool bool
	panics  *panicLog
	epoch   time.Time

	h       atomic.Pointer[Handler]
	table   *table
	loops   atomic.Pointer[[]*loop] // copied on write, under loopMu
	loopMu  sync.Mutex
	groups  groups
	flow    flow
	classes atomic.Pointer[classes]
	fixed   fixed
	learn   *learner // nil unless Adaptive
	perIP   perIP
	plat    platform // what the operating system gives

	mu       sync.Mutex
	state    serverState // guarded by mu
	reactor  []*reactor  // guarded by mu; one for TCP, one for unix sockets
	addrs    []net.Addr  // guarded by mu
	failure  error       // guarded by mu
	bg       sync.WaitGroup
	stopping bool          // guarded by mu; a Stop is under way
	started  chan struct{} // closed when Start has returned
	ended    chan struct{} // closed when Stop has
	quit     chan struct{} // ends the background goroutines
	done     chan struct{} // closed when the server has stopped or failed
	tickNow  chan struct{}
	rearm    chan *loop

	draining  atomic.Bool // accepts no more
	refusing  atomic.Bool // answers requests that are read from now on with ERROR 7
	conns     atomic.Int64
	buffered  atomic.Int64 // bytes waiting in sessions, both ways
	starving  atomic.Int32 // sessions on loops' starved lists
	fdShed    atomic.Int64 // a descriptor of this number or more is refused
	fast      atomic.Bool  // the ticker is in a hurry: the server drains
	drainFrom time.Time

	closes    [reasonCount]atomic.Uint64
	refused   [refusalCount]atomic.Uint64
	stale     atomic.Uint64 // sends and submits to sessions that had gone
	busy      atomic.Uint64 // ErrBusy
	parks     atomic.Uint64
	dropped   atomic.Uint64 // frames read and not handled because their session closed
	lostBytes atomic.Uint64 // staged bytes that never left
	casts     atomic.Uint64
	errors    atomic.Uint64 // ERROR frames
	demoted   atomic.Uint64

	acceptErrors atomic.Uint64
	glutSince    atomic.Int64  // since when the budget has been exceeded; 0: it is not
	lightened    atomic.Uint64 // sessions closed for it
}

type serverState uint8

const (
	serverNew serverState = iota
	serverStarting
	serverRunning
	serverStopping
	serverStopped
)

// New checks the settings and makes a server; Start starts it. The error names every
// field that can't be, each as a *ConfigError.
func New(cfg Config, h Handler) (*Server, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, &ConfigError{"Handler", nil, "give one"}
	}
	srv := &Server{
		cfg: cfg, table: &table{}, epoch: time.Now(), panics: newPanicLog(cfg.Logger), pool: cfg.Pool,
		quit: make(chan struct{}), started: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}), tickNow: make(chan struct{}, 1),
		rearm: make(chan *loop, 4096),
	}
	srv.codec, _ = codec.New(cfg.Layout, cfg.MaxFrame)
	srv.cfg.MaxFrame = srv.codec.MaxFrame()
	srv.groups = groups{srv: srv, all: map[string]*Group{}}
	srv.flow.srv = srv
	srv.perIP.m = map[netip.Addr]int{}
	srv.loops.Store(&[]*loop{})
	srv.fixed.m = map[uint32]Dispatch{}
	for handle, d := range cfg.Handles {
		srv.fix(handle, d)
	}
	srv.makeClasses()
	if cfg.Dispatch == Adaptive {
		srv.learn = &learner{srv}
	}
	if srv.pool == nil {
		p, err := NewPool(PoolConfig{Workers: cfg.Workers, Spare: orOff(cfg.SpareWorkers), MaxQueue: cfg.MaxQueue, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
		srv.pool, srv.ownPool = p, true
	}
	srv.SetHandler(h)
	return srv, nil
}

// orOff turns a 0 that means none into Off.
func orOff(n int) int {
	if n == 0 {
		return Off
	}
	return n
}

// SetHandler changes the handler, also while the server runs. Callbacks that have begun
// end with the old one; every later callback is the new one's.
func (srv *Server) SetHandler(h Handler) { srv.h.Store(&h) }

func (srv *Server) handler() Handler { return *srv.h.Load() }

// now is nanoseconds since the server was made, at least 1.
func (srv *Server) now() int64 { return int64(time.Since(srv.epoch)) + 1 }

// Pool is the pool that the strands run on.
func (srv *Server) Pool() *Pool { return srv.pool }

// Logger is Config.Logger.
func (srv *Server) Logger() *slog.Logger { return srv.cfg.Logger }

// Config is what the server runs with, defaults filled in.
func (srv *Server) Config() Config {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.cfg
}

// Draining tells whether Stop has begun.
func (srv *Server) Draining() bool { return srv.draining.Load() }

// Running tells whether the server serves.
func (srv *Server) Running() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.state == serverRunning
}

// Addrs are the addresses that are listened on, with the ports that were bound.
func (srv *Server) Addrs() []net.Addr {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return append([]net.Addr(nil), srv.addrs...)
}

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

// Sessions calls fn for every session that has not begun to close, until it returns
// false, on the caller's goroutine.
func (srv *Server) Sessions(fn func(*Session) bool) {
	srv.table.each(func(s *Session) bool { return !s.Connected() || fn(s) })
}

// Send is Session.Send by ID. ErrClosed when that session has gone.
func (srv *Server) Send(id ID, main, sub uint16, body []byte) error {
	s := srv.Session(id)
	if s == nil {
		srv.stale.Add(1)
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

// unbuffer takes bytes off the memory budget, and lets starved sessions read again when
// half of it is free.
func (srv *Server) unbuffer(n int64) {
	half := int64(srv.cfg.MemoryBudget / 2)
	now := srv.buffered.Add(-n)
	if now <= half && now+n > half && srv.starving.Load() > 0 {
		for _, l := range *srv.loops.Load() {
			l.mu.Lock()
			l.sweepDue = true
			l.arm()
		}
	}
}

// fairShare is how much a session may hold while the budget is exceeded: the largest
// are paused first, and the further it is exceeded the smaller is what counts as large.
func (srv *Server) fairShare(buffered int) int {
	conns := max(int(srv.conns.Load()), 1)
	if buffered > srv.cfg.MemoryBudget+srv.cfg.MemoryBudget/4 {
		return 1
	}
	return max(srv.cfg.MemoryBudget/conns, 1)
}

// release frees the slot of a session that has ended altogether.
func (srv *Server) release(s *Session) {
	srv.table.release(s)
	if srv.cfg.MaxConnsPerIP > 0 {
		srv.perIP.leave(s.remote)
	}
	srv.conns.Add(-1)
	select {
	case srv.tickNow <- struct{}{}: // somebody may be waiting for the last one
	default:
	}
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
