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

// Mode says whether services share their cache with other processes; the
// seed's WorkerPool(mode).
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
	NameEvents = "events" // durable delay events; only with a database
	NameTCP    = "tcp"
)

// Config sets up a manager. Zero fields mean the defaults.
type Config struct {
	Pool   engine.PoolConfig
	Timers timerwheel.Config
	// DB makes the database and its durable delay events (events.Database); nil: there
	// is none. Their pool is the manager's.
	DB MakeDatabase
	// Server listens; nil: there is no server, as for a worker process. Its
	// Pool is the manager's, and its Handles get those of the controller.
	Server *engine.Config
	// Handler gets the server's events; nil: the controller.
	Handler engine.Handler
	// Controller are the limits and choices of the controller; the manager
	// fills in its services.
	Controller ControllerConfig

	Mode   Mode
	Memory MemoryConfig // of OneProcess
	Shared Cache        // of ManyProcesses; nodes.Shared(node) makes one of several nodes of it

	// Services are the program's own. Rooms among them get the manager's pool and timers.
	Services []Spec

	// StartTimeout bounds the start of one service, StopTimeout its stop;
	// default 30 s each. Start's and Stop's contexts bound the whole.
	StartTimeout, StopTimeout time.Duration
	// Check is how often Running of the program's services is looked at;
	// default 1 s.
	Check time.Duration
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Spec is a service of the program's own.
type Spec struct {
	Name    string
	Service Service
	// After are the names of services that must run before this one starts and
	// until it has stopped. The pool, the database, the timers, the cache and
	// the durable events always are. The server starts after all that don't
	// name NameTCP here.
	After []string
	// MaxRestarts within Within: a service that is found not running is started
	// again so often; once more, and the manager fails (Done, Err). 0 never
	// restarts it. Within defaults to 1 min. (OTP's restart intensity.)
	MaxRestarts int
	Within      time.Duration
}

// Ender is a Service that tells when it has ended by itself, so that nobody has
// to look. The channel is that of the present run.
type Ender interface{ Done() <-chan struct{} }

// Checker is a Service that knows more of its health than whether it runs.
type Checker interface{ Healthy() error }

// Errors of a Manager.
var (
	// ErrIntensity: a service had to be restarted too often.
	ErrIntensity = errors.New("services: restarted too often")
	// ErrStarted: a manager starts once.
	ErrStarted = errors.New("services: the manager has been started before")
	// ErrNoService: there is none of that name, or it can't be restarted.
	ErrNoService = errors.New("services: no such service")
)

// Manager makes the pool, the timers, the database, the cache, the controller
// and the server, and starts and stops them with the program's own services in
// the order of what needs what.
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

	stopping sync.Mutex // one Stop at a time; taken before mu
	mu       sync.Mutex // Start, restarts, state
	state    managerState
	watched  sync.WaitGroup
	quit     chan struct{} // closed when Stop begins
	quitting sync.Once
	done     chan struct{} // closed when it has failed or stopped
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

// Default is the program's one manager, if SetDefault has named one; the
// seed's IServiceMgr::Instance.
func Default() *Manager { return defaultManager.Load() }

// SetDefault names it, or none.
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

// New makes everything and starts nothing. The error tells every fault.
func New(cfg Config) (*Manager, error) { return newManager(system{}, cfg) }

func newManager(on Machine, cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg.withDefaults(), on: on, quit: make(chan struct{}), done: make(chan struct{})}
	if err := errors.Join(m.make(), m.order()); err != nil {
		return nil, err
	}
	return m, nil
}

// make makes the manager's own services.
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
		errs[3] = errors.New("services: many processes without a shared cache")
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

// Extender is a Config.Shared that is more than a cache: the services that Extend returns,
// which may use what the manager has made, are started behind the cache and in front of the
// server, if there is one.
type Extender interface{ Extend(m *Manager) []Spec }

// makeServer makes the server. Handles of services that are registered between
// New and Start are set at Start.
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

// Async is the worker pool; the seed's GetAsyncService, and its Submit the
// seed's GetIOService.
func (m *Manager) Async() *engine.Pool { return m.pool }

// TCP is the server, nil without one; the seed's GetTCPService.
func (m *Manager) TCP() *engine.Server { return m.server }

// Timers are the timers; the seed's GetTimerService.
func (m *Manager) Timers() *timerwheel.Service { return m.timers }

// DB is the database, nil without one; the seed's GetDBService. events.DB(m) is the same
// as a *dbasync.DB.
func (m *Manager) DB() Database { return m.db }

// Cache is the memory that services share; the seed's common_tools.mem_cache.
func (m *Manager) Cache() Cache { return m.cache }

// Events are the durable delay events, nil without a database that keeps them.
func (m *Manager) Events() DurableEvents { return m.events }

// Controller is where services are registered.
func (m *Manager) Controller() *Controller { return m.controller }

// Service finds one by its name, or nil.
func (m *Manager) Service(name string) Service {
	if n := m.node(name); n != nil {
		return n.spec.Service
	}
	return nil
}

// Done is closed when the manager has stopped, or when it has failed: a
// service ended and could not be restarted, or the server ended unasked. After
// a failure Stop is still to be called.
func (m *Manager) Done() <-chan struct{} { return m.done }

// Err says why it failed, after Done; nil when it was stopped.
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
