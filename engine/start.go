package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/machine"
	"millrace/engine/internal/sched"
)

// Start binds the addresses and starts the loops. When it returns nil, connections are served. A
// server can be started only once. If an address is in use, the error is syscall.EADDRINUSE and
// names the address. If it fails, nothing is left running; if ctx has already ended, nothing
// happens and Start may be called again.
func (srv *Server) Start(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("engine: start: %w", err)
	}
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
	srv.adjusted.Store(srv.cfg.adjustable())
	srv.table.open(srv.cfg.MaxConns)
	if srv.ownPool {
		if err := srv.pool.Start(ctx); err != nil {
			return srv.unstart(err)
		}
	} else if !srv.pool.Running() {
		return srv.unstart(fmt.Errorf("engine: Config.Pool: %w", ErrNotRunning))
	}
	srv.bg.Add(2)
	go srv.rearmer()
	go srv.ticker()
	if srv.machine == nil {
		srv.bg.Add(1)
		go srv.watchLoops()
	} else {
		srv.machine.Loops(func() { srv.lookAtLoops(0) })
	}
	srv.serving.Store(true)
	if err := srv.net.Start(ctx); err != nil {
		return srv.unstart(netError(err))
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

// unstart undoes a failed Start.
func (srv *Server) unstart(err error) error {
	srv.mu.Lock()
	srv.state = serverStopping
	srv.mu.Unlock()
	srv.serving.Store(false)
	close(srv.quit)
	srv.endLoops()
	srv.bg.Wait()
	srv.stalls.Close()
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

// New checks the settings and creates a server; Start starts it. The error lists every invalid
// field, each as a *ConfigError.
func New(cfg Config, h Handler) (*Server, error) { return newServer(nil, cfg, h) }

// newServer is New in the environment on; nil for the operating system.
func newServer(on machine.Machine, cfg Config, h Handler) (*Server, error) {
	cfg = cfg.WithDefaults().inUse()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, &ConfigError{"Handler", nil, "give one"}
	}
	srv := &Server{
		cfg: cfg, machine: on, table: &table{}, epoch: time.Now(), panics: sched.NewPanics(cfg.Logger), pool: cfg.Pool,
		quit: make(chan struct{}), started: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}), tickNow: make(chan struct{}, 1),
		rearm: make(chan *loop, 4096), watch: make(chan struct{}, 1),
	}
	srv.adjusted.Store(cfg.adjustable())
	srv.setFramings()
	srv.taps = cfg.Recorder != RecorderOff || cfg.Tap != nil
	srv.stallLog.most, srv.nears.last.most = cfg.RecorderKeep, cfg.RecorderKeep
	srv.nearPending = cfg.MaxPending - cfg.MaxPending/10
	srv.hooks.srv = srv
	if cfg.Recorder != RecorderOff {
		srv.kept = cfg.RecorderKeep * flightCost
	}
	srv.others.srv = srv
	srv.groups.all = map[string]*memberSet{}
	srv.flow.srv = srv
	srv.loops.Store(&[]*loop{})
	srv.budget = budget.New(cfg.MemoryBudget, srv.levelMoved)
	srv.budget.Add(srv.kept)
	srv.share.Store(int64(cfg.MaxOutbound))
	srv.stalls = sched.NewWatch(cfg.StallAfter, cfg.Logger, onStall(cfg.OnStall), srv.panics)
	srv.handles.init(srv)
	srv.waits = newWaits(&srv.cfg)
	srv.costs.init(srv)
	srv.perIP.Bits = cfg.IPv6Prefix
	srv.acceptPerIP.Most, srv.acceptPerIP.Bits = cfg.AcceptRatePerIP, cfg.IPv6Prefix
	var err error
	if srv.net, err = newNetwork(srv); err != nil {
		return nil, netError(err)
	}
	if srv.pool == nil {
		p, err := newPool(on, PoolConfig{Workers: cfg.Workers, Spare: cfg.given().SpareWorkers, MaxQueue: cfg.MaxQueue, MaxTasks: cfg.MaxTasks,
			StallAfter: cfg.given().StallAfter, OnStall: srv.onPoolStall, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
		srv.pool, srv.ownPool = p, true
	}
	srv.SetHandler(h)
	return srv, nil
}
