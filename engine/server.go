package engine

import (
	"context"
	"errors"
	"fmt"
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
	refusing  atomic.Bool // answers requests with ERROR 7
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
		cfg: cfg, epoch: time.Now(), panics: newPanicLog(cfg.Logger), pool: cfg.Pool,
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
func (srv *Server) Config() Config { return srv.cfg }

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
	t := srv.table
	if t == nil {
		return nil
	}
	if s := t.lookup(id); s != nil && s.Connected() {
		return s
	}
	return nil
}

// Sessions calls fn for every session that has not begun to close, until it returns
// false, on the caller's goroutine.
func (srv *Server) Sessions(fn func(*Session) bool) {
	if srv.table != nil {
		srv.table.each(func(s *Session) bool { return !s.Connected() || fn(s) })
	}
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

// Broadcast sends one packet to every session, as what it has not asked for. The frame
// is encoded once, and several that wait leave as one write for each session. ErrBusy
// when a loop has MaxOutbox bytes waiting: nothing was sent. From a callback use
// Session.Broadcast, which waits its turn instead. ErrFrameTooLarge, ErrClosed.
func (srv *Server) Broadcast(main, sub uint16, body []byte) error {
	return srv.broadcast(main, sub, body, true)
}

func (srv *Server) broadcast(main, sub uint16, body []byte, hard bool) error {
	if len(body) > srv.codec.MaxBody() {
		return ErrFrameTooLarge
	}
	if srv.outboxOver(hard) {
		srv.busy.Add(1)
		return ErrBusy
	}
	b := getBuf(srv.codec.Overhead() + len(body))
	defer b.free()
	b.b = srv.codec.Append(b.b, codec.Packet{Main: main, Sub: sub, Body: body})
	for _, l := range *srv.loops.Load() {
		l.cast(b.b)
	}
	srv.casts.Add(1)
	return nil
}

// outboxOver tells whether broadcasts are refused now: from elsewhere at MaxOutbox,
// from callbacks, whose strands wait afterwards, at twice of it.
func (srv *Server) outboxOver(hard bool) bool {
	limit := int64(srv.cfg.MaxOutbox)
	if !hard {
		limit *= 2
	} else if srv.buffered.Load() > int64(srv.cfg.MemoryBudget) {
		return true
	}
	return !srv.outboxBelow(limit)
}

// outboxBelow tells whether every loop has less than limit bytes waiting.
func (srv *Server) outboxBelow(limit int64) bool {
	for _, l := range *srv.loops.Load() {
		if l.queued.Load() >= limit {
			return false
		}
	}
	return true
}

// Broadcast is Server.Broadcast for this session's callbacks: when the loops' outboxes
// are full, the strand waits for them before its next packet.
func (s *Session) Broadcast(main, sub uint16, body []byte) error {
	err := s.srv.broadcast(main, sub, body, false)
	s.waitForOutbox()
	return err
}

// SendGroup is Group.Send for this session's callbacks: when the loops' outboxes are
// full, the strand waits for them before its next packet.
func (s *Session) SendGroup(g *Group, main, sub uint16, body []byte) (sent int, err error) {
	sent, err = g.send(main, sub, body, false)
	s.waitForOutbox()
	return sent, err
}

func (s *Session) waitForOutbox() {
	if !s.srv.outboxBelow(int64(s.srv.cfg.MaxOutbox)) {
		s.out.waits.Store(true)
	}
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

// again gives a loop another turn once its poller has looked at the sockets. Execute
// within a turn would run before that.
func (srv *Server) again(l *loop) { srv.rearm <- l }

// rearmer's goroutine does what again asks for. Its channel has room for every loop.
func (srv *Server) rearmer() {
	defer srv.bg.Done()
	for {
		select {
		case l := <-srv.rearm:
			l.exec.execute(l)
		case <-srv.quit:
			return
		}
	}
}

// ticker's goroutine has every loop sweep its clocks.
func (srv *Server) ticker() {
	defer srv.bg.Done()
	every := srv.tick()
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-srv.quit:
			return
		case <-t.C:
		}
		if srv.fast.Load() && every > drainTick {
			every = drainTick
			t.Reset(every)
		}
		srv.plat.guard(srv)
		for _, l := range *srv.loops.Load() {
			l.mu.Lock()
			l.sweepDue = true
			l.arm()
		}
	}
}

// tick is the clocks' resolution: an eighth of the shortest timeout, 10 to 250 ms.
func (srv *Server) tick() time.Duration {
	d := 250 * time.Millisecond
	for _, t := range []time.Duration{srv.cfg.FirstFrameTimeout, srv.cfg.FrameTimeout, srv.cfg.IdleTimeout, srv.cfg.Heartbeat, srv.cfg.Linger} {
		if t > 0 {
			d = min(d, t/8)
		}
	}
	return max(d, 10*time.Millisecond)
}

// Start binds the addresses and starts the loops. When it returns nil, connections are
// served. A server starts once. An address in use is an error that is
// syscall.EADDRINUSE and names the address. When it fails, nothing is left running.
func (srv *Server) Start(ctx context.Context) (err error) {
	srv.mu.Lock()
	if srv.state != serverNew {
		srv.mu.Unlock()
		return errors.New("engine: the server has been started before")
	}
	srv.state = serverStarting
	srv.mu.Unlock()
	defer close(srv.started)
	if err := srv.fitFiles(); err != nil {
		return srv.unstart(err)
	}
	srv.table = newTable(srv.cfg.MaxConns)
	if srv.ownPool {
		if err := srv.pool.Start(ctx); err != nil {
			return srv.unstart(err)
		}
	} else if !srv.pool.Running() {
		return srv.unstart(errors.New("engine: Config.Pool is not running: start it first"))
	}
	if err := srv.plat.start(srv); err != nil {
		return srv.unstart(err)
	}
	srv.bg.Add(2)
	go srv.rearmer()
	go srv.ticker()
	if err := srv.listen(ctx); err != nil {
		return srv.unstart(err)
	}
	srv.mu.Lock()
	err = srv.failure
	if err == nil {
		srv.state = serverRunning
	}
	srv.mu.Unlock()
	if err != nil {
		return srv.unstart(err)
	}
	return nil
}

// unstart undoes a Start that failed.
func (srv *Server) unstart(err error) error {
	srv.mu.Lock()
	srv.state = serverStopping
	srv.mu.Unlock()
	srv.stopReactors()
	srv.reap()
	close(srv.quit)
	srv.plat.stop()
	srv.bg.Wait()
	if srv.ownPool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.pool.Stop(ctx)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.state = serverStopped
	close(srv.done)
	return err
}

// reserveFiles is how many descriptors are kept for what is not a connection.
const reserveFiles = 64

// fitFiles fits MaxConns to the open-file limit.
func (srv *Server) fitFiles() error {
	limit := openFileLimit()
	backlog := 0
	if srv.cfg.Accept == AcceptSingle || srv.hasUnix() {
		backlog = listenBacklog() // the single acceptor takes a whole backlog before a loop can refuse
	}
	most := limit - reserveFiles - backlog
	switch {
	case srv.cfg.MaxConns == 0:
		srv.cfg.MaxConns = min(10_000, most)
		if most < 1 {
			return &ConfigError{"MaxConns", 0, fmt.Sprintf("the open-file limit of %d leaves no room (%d kept, %d for the backlog): raise it (ulimit -n), or use reuseport accepting", limit, reserveFiles, backlog)}
		}
	case srv.cfg.MaxConns > most:
		return &ConfigError{"MaxConns", srv.cfg.MaxConns, fmt.Sprintf("the open-file limit of %d holds at most %d (%d kept, %d for the backlog): lower it, or raise the limit (ulimit -n)", limit, max(most, 0), reserveFiles, backlog)}
	}
	srv.shedAt(limit)
	return nil
}

// shedAt fits what is refused for want of files to the open-file limit: from nine tenths
// of it on, or later where MaxConns needs more.
func (srv *Server) shedAt(limit int) {
	srv.fdShed.Store(int64(max(limit*9/10, min(limit-16, srv.cfg.MaxConns+reserveFiles*3/4))))
}

func (srv *Server) hasUnix() bool {
	for _, a := range srv.cfg.Addrs {
		if p, _ := parseAddr(a); p.unix() {
			return true
		}
	}
	return false
}

// perIP counts connections of each address, where that is limited.
type perIP struct {
	mu sync.Mutex
	m  map[netip.Addr]int // guarded by mu
}

func ipOf(a net.Addr) (netip.Addr, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	return ip.Unmap(), ok
}

func (p *perIP) enter(a net.Addr, limit int) bool {
	if limit == 0 {
		return true
	}
	ip, ok := ipOf(a)
	if !ok {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m[ip] >= limit {
		return false
	}
	p.m[ip]++
	return true
}

func (p *perIP) leave(a net.Addr) {
	ip, ok := ipOf(a)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.m[ip]; n > 1 {
		p.m[ip] = n - 1
	} else {
		delete(p.m, ip)
	}
}
