package services

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/timerwheel"
)

// Mode says whether services share their cache with other processes.
type Mode uint8

const (
	// OneProcess: the cache is a Memory.
	OneProcess Mode = iota
	// ManyProcesses: the cache is Config.Shared, usually a cluster.Cache.
	ManyProcesses
)

// Names of the manager's own services, for Spec.After and Health.
const (
	NamePool   = "pool"
	NameDB     = "db"
	NameTimers = "timers"
	NameCache  = "cache"
	NameEvents = "events" // durable delay events, with a database
	NameTCP    = "tcp"
)

// Config configures a manager. Zero fields mean the defaults.
type Config struct {
	Pool   engine.PoolConfig
	Timers timerwheel.Config
	// DB creates the database and its durable delay events (events.Database); nil for none. They
	// use the manager's pool.
	DB MakeDatabase
	// Server configures the server; nil for none, as in a worker process. The manager sets its
	// Pool, and adds the controller's handles to its Handles.
	Server *engine.Config
	// Handler handles the server's events; nil means the controller.
	Handler engine.Handler
	// Controller configures the controller; the manager sets the services in it.
	Controller ControllerConfig

	Mode   Mode
	Memory MemoryConfig // for OneProcess
	Shared Cache        // for ManyProcesses; use nodes.Shared(node) for a cluster of nodes

	// Services are the program's own services. Rooms among them get the manager's pool and timers.
	Services []Spec

	// StartTimeout limits the start of one service, StopTimeout its stop; default 30 s each. The
	// contexts of Start and Stop limit the whole.
	StartTimeout, StopTimeout time.Duration
	// Check is the interval at which Running of the program's services is called; default 1 s.
	Check time.Duration
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Spec is one of the program's own services.
type Spec struct {
	Name    string
	Service Service
	// After names services that must run before this one starts and until it has stopped. The pool,
	// the database, the timers, the cache and the durable events always do. The server starts after
	// all services that don't name NameTCP here.
	After []string
	// MaxRestarts is how many times within Within a service that is not running is restarted; after
	// that the manager fails (Done, Err). 0 means it is never restarted. Within defaults to 1 min.
	// (This is the restart intensity of Erlang/OTP supervisors.)
	MaxRestarts int
	Within      time.Duration
}

// Ender is a Service that reports when it has ended by itself, so that Running need not be polled.
// Done returns the channel of the current run.
type Ender interface{ Done() <-chan struct{} }

// Checker is a Service with a more detailed health check than Running.
type Checker interface{ Healthy() error }

// Errors of a Manager.
var (
	// ErrIntensity: a service had to be restarted too often.
	ErrIntensity = errors.New("services: restarted too often")
	// ErrStarted: a manager can be started only once.
	ErrStarted = errors.New("services: the manager has been started before")
	// ErrNoService: no service has that name, or it can't be restarted.
	ErrNoService = errors.New("services: no such service")
)

// Manager creates the pool, the timers, the database, the cache, the controller and the server, and
// starts and stops them, with the program's own services, in the order of their dependencies.
type Manager struct {
	cfg        Config
	on         Machine
	pool       *engine.Pool
	timers     *timerwheel.Service
	db         Database
	cache      Cache
	events     DurableEvents
	controller *Controller
	server     *engine.Server

	nodes []*node // in the order of start

	stopping sync.Mutex // serializes Stop; locked before mu
	mu       sync.Mutex // guards Start, restarts and the state
	state    managerState
	watched  sync.WaitGroup
	quit     chan struct{} // closed when Stop begins
	quitting sync.Once
	done     chan struct{} // closed when the manager has failed or stopped
	ending   sync.Once
	err      atomic.Pointer[error]
}

type managerState uint8

const (
	managerNew managerState = iota
	managerStarted
	managerStopped
)

var _ Service = (*Manager)(nil)

var defaultManager atomic.Pointer[Manager]

// Default returns the program's manager that was set by SetDefault, or nil.
func Default() *Manager { return defaultManager.Load() }

// SetDefault sets the manager that Default returns; nil for none.
func SetDefault(m *Manager) { defaultManager.Store(m) }

func (c Config) withDefaults() Config {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.StartTimeout, 30*time.Second)
	def(&c.StopTimeout, 30*time.Second)
	def(&c.Check, time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, l := range []**slog.Logger{&c.Pool.Logger, &c.Timers.Logger, &c.Controller.Logger} {
		if *l == nil {
			*l = c.Logger
		}
	}
	c.Services = slices.Clone(c.Services)
	return c
}

// New creates everything and starts nothing. The error lists every fault.
func New(cfg Config) (*Manager, error) { return newManager(system{}, cfg) }

func newManager(on Machine, cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg.withDefaults(), on: on, quit: make(chan struct{}), done: make(chan struct{})}
	if err := errors.Join(m.make(), m.order()); err != nil {
		return nil, err
	}
	return m, nil
}

// make creates the manager's own services.
func (m *Manager) make() error {
	var errs [5]error
	cfg := &m.cfg
	m.pool, errs[0] = m.on.NewPool(cfg.Pool)
	m.timers, errs[1] = timerwheel.New(cfg.Timers, m.pool)
	if cfg.DB != nil && errs[0] == nil {
		m.db, m.events, errs[2] = cfg.DB(m.pool, cfg.Logger)
	}
	switch {
	case cfg.Mode == OneProcess:
		m.cache, errs[3] = NewMemory(cfg.Memory)
	case cfg.Mode != ManyProcesses:
		errs[3] = fmt.Errorf("services: unknown mode %d", cfg.Mode)
	case cfg.Shared == nil:
		errs[3] = errors.New("services: Mode = ManyProcesses needs a shared cache, but Config.Shared is nil")
	default:
		m.cache = cfg.Shared
	}
	cc := cfg.Controller
	cc.Timers, cc.DB, cc.Cache, cc.Durable, cc.Pool = m.timers, m.db, m.cache, m.events, m.pool
	m.controller, errs[4] = NewController(cc)
	err := errors.Join(errs[:]...)
	if err == nil && cfg.Server != nil {
		m.server, err = m.makeServer()
	}
	if more, ok := cfg.Shared.(Extender); ok && err == nil && cfg.Mode == ManyProcesses {
		cfg.Services = append(cfg.Services, more.Extend(m)...)
	}
	return err
}

// Extender is a Config.Shared that is more than a cache: the services that Extend returns, which
// may use what the manager has created, are started after the cache and before the server, if there
// is one.
type Extender interface{ Extend(m *Manager) []Spec }

// makeServer creates the server. Handles of services registered between New and Start are set by
// Start.
func (m *Manager) makeServer() (*engine.Server, error) {
	sc := *m.cfg.Server
	sc.Pool = m.pool
	if sc.Logger == nil {
		sc.Logger = m.cfg.Logger
	}
	h := m.cfg.Handler
	if h == nil {
		h = m.controller
	}
	return m.on.NewServer(sc, h)
}

// Async returns the worker pool.
func (m *Manager) Async() *engine.Pool { return m.pool }

// TCP returns the server, nil if there is none.
func (m *Manager) TCP() *engine.Server { return m.server }

// Timers returns the timer service.
func (m *Manager) Timers() *timerwheel.Service { return m.timers }

// DB returns the database, nil if there is none. events.DB(m) returns it as a *dbasync.DB.
func (m *Manager) DB() Database { return m.db }

// Cache returns the cache that services share.
func (m *Manager) Cache() Cache { return m.cache }

// Events returns the store of durable delay events, nil without a database that has one.
func (m *Manager) Events() DurableEvents { return m.events }

// Controller returns the controller, at which services are registered.
func (m *Manager) Controller() *Controller { return m.controller }

// Service returns the service with that name, or nil.
func (m *Manager) Service(name string) Service {
	if n := m.node(name); n != nil {
		return n.spec.Service
	}
	return nil
}

// Done returns a channel that is closed when the manager has stopped, or has failed because a
// service ended and could not be restarted, or the server ended by itself. Stop must still be
// called after a failure.
func (m *Manager) Done() <-chan struct{} { return m.done }

// Err returns the cause of a failure, after Done is closed; nil if the manager was stopped.
func (m *Manager) Err() error {
	if p := m.err.Load(); p != nil {
		return *p
	}
	return nil
}

func (m *Manager) fail(err error) {
	m.ending.Do(func() {
		m.err.Store(&err)
		m.cfg.Logger.Error("services: the manager failed", "err", err)
		close(m.done)
	})
}
