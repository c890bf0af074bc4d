package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/admin/live"
	"millrace/timerwheel"
)

// Config configures a Door. Zero fields mean the defaults.
type Config struct {
	// Addr is the address to listen on: HOST:PORT, port 0 for a free one, or unix:///PATH.
	Addr string
	// Token is required in every request (Authorization: Bearer). If empty, no token is required,
	// and HOST must be a loopback address.
	Token string

	// Server is the server that is shown. It must be started before the Door.
	Server *engine.Server
	// Controller provides data about handles and closed sessions; nil for none.
	Controller *services.Controller
	// Timers provides data about timers; nil for none.
	Timers *timerwheel.Service
	// DB, Cache and Cluster return snapshots: structs of counters (uint64) and current values
	// (int), such as dbasync.Stats and services.CacheStats; nil for none.
	DB, Cache, Cluster func() any
	// Checks must succeed for the process to be ready, in addition to the server not draining.
	Checks []Check
	// Limits returns further limits for /limits and /metrics; nil for none.
	Limits func() []Limit
	// Settings are shown by /config; nil means those of Server.
	Settings Settings
	// SessionID returns a name for a session that is unique among all processes for all time; nil
	// means a random number of this process and the session's ID.
	SessionID func(*engine.Session) string
	// Node is the server's name on the live page; the default is the host name.
	Node string
	// Events returns the recent events of a session, oldest first, for /sessions/ID; nil for none.
	Events func(engine.ID) any

	Write bool // allow POST
	Pprof bool // serve /debug/pprof
	// Trace keeps at least this much of the most recent runtime/trace, which costs the process a
	// few percent of CPU; with 0, /trace records for a second when requested.
	Trace time.Duration
	// DrainTimeout limits a drain; remaining sessions are closed then. 0 means no limit.
	DrainTimeout time.Duration

	// MaxClients is how many connections are open at a time: for a further one, the one that has
	// waited longest for a request is closed. The default is 16.
	MaxClients int
	Timeout    time.Duration // to read a request, to wait for the next one, and to write an answer; default 5 s
	MaxList    int           // sessions in one answer; default 1,000
	MaxClosed  int           // closed sessions that are remembered; default 256
	Logger     *slog.Logger  // nil: slog.Default()
}

// Check is a condition for the process to be ready.
type Check struct {
	Name  string       // as "database"
	Ready func() error // returns nil if it is met; must not block
}

// Limit is a limit and how much of it is used.
type Limit struct {
	Name string  `json:"limit"` // name of the flag or field, such as "max-conns"
	Used float64 `json:"used"`
	Max  float64 `json:"max"`           // 0: no limit
	Who  string  `json:"who,omitempty"` // the session, if each session has its own
}

// Settings are the settings that /config shows and changes.
type Settings interface {
	// All returns the settings by name, without secrets.
	All() map[string]any
	// Set changes settings while the process runs: all of them or, if it returns an error, none.
	Set(values map[string]string) error
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MaxClients, 16)
	def(&c.MaxList, 1000)
	def(&c.MaxClosed, 256)
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// validate reports every fault.
func (c Config) validate() error {
	var errs []error
	bad := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf("admin: "+format, args...))
		}
	}
	bad(c.Server == nil, "Server is missing")
	bad(c.MaxClients < 1, "MaxClients = %d: must be 1 or more", c.MaxClients)
	bad(c.MaxList < 1, "MaxList = %d: must be 1 or more", c.MaxList)
	bad(c.MaxClosed < 0, "MaxClosed = %d: must be 0 or more", c.MaxClosed)
	bad(c.Timeout < 0 || c.Trace < 0 || c.DrainTimeout < 0, "a time is below 0")
	for _, check := range c.Checks {
		bad(check.Name == "" || check.Ready == nil, "a check without a name or a function")
	}
	return errors.Join(errs...)
}

// Door is the admin server. It is a services.Service.
type Door struct {
	cfg     Config
	addr    address
	token   [sha256.Size]byte // hash of Config.Token
	name    string            // unique name of this process
	closed  closedRing
	watcher watcher
	http    *http.Server
	reg     http.Handler // /metrics
	paths   map[string]endpoint

	clients atomic.Int64  // connections that are open
	refused atomic.Uint64 // refused requests

	mu      sync.Mutex
	running bool         // guarded by mu
	ln      net.Listener // guarded by mu; nil before Start
	serving sync.WaitGroup
	trace   tracer
}

var _ services.Service = (*Door)(nil)

// CheckAddr checks a Config.Addr. token says whether a token will be set.
func CheckAddr(addr string, token bool) error {
	_, err := parseAddr(addr, token)
	return err
}

// New checks the settings and starts nothing. Its error lists every fault. It registers a hook with
// the Controller to record sessions that close.
func New(cfg Config) (*Door, error) {
	cfg = cfg.withDefaults()
	addr, err := parseAddr(cfg.Addr, cfg.Token != "")
	if err := errors.Join(err, cfg.validate()); err != nil {
		return nil, err
	}
	d := &Door{cfg: cfg, addr: addr, token: sha256.Sum256([]byte(cfg.Token)), name: processName()}
	d.closed.max = cfg.MaxClosed
	d.trace.keep = cfg.Trace
	d.watcher.rec = live.NewRecorder()
	if cfg.Settings == nil {
		d.cfg.Settings = serverSettings{cfg.Server}
	}
	if cfg.Controller != nil {
		cfg.Controller.OnClose(d.Closed)
	}
	d.reg, d.paths = d.newMetrics(), endpoints()
	return d, nil
}

// Start listens and serves. If the address is in use, the error is syscall.EADDRINUSE.
func (d *Door) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ln != nil {
		return errors.New("admin: already started")
	}
	ln, err := d.addr.listen(ctx)
	if err != nil {
		return fmt.Errorf("admin: listen %s: %w", d.addr, err)
	}
	if err := d.trace.start(); err != nil {
		ln.Close()
		return fmt.Errorf("admin: trace: %w", err)
	}
	d.ln = newClientLimit(ln, d.cfg.MaxClients, &d.clients)
	d.http = &http.Server{
		Handler: d, ReadTimeout: d.cfg.Timeout, IdleTimeout: d.cfg.Timeout, MaxHeaderBytes: 16 << 10,
		ConnContext: withClient, ErrorLog: slog.NewLogLogger(d.cfg.Logger.Handler(), slog.LevelDebug),
	}
	d.running = true
	d.watch()
	d.serving.Go(func() {
		err := d.http.Serve(d.ln)
		d.mu.Lock()
		d.running = false
		d.mu.Unlock()
		if !errors.Is(err, http.ErrServerClosed) {
			d.cfg.Logger.Error("admin: the server failed", "err", err)
		}
	})
	return nil
}

// Stop stops the server: it waits for requests in progress until ctx ends.
func (d *Door) Stop(ctx context.Context) error {
	d.mu.Lock()
	srv := d.http
	d.mu.Unlock()
	if srv == nil {
		return nil
	}
	err := srv.Shutdown(ctx)
	if err != nil {
		_ = srv.Close()
	}
	d.serving.Wait()
	d.unwatch()
	d.trace.stop()
	return err
}

// Running reports whether the server serves requests.
func (d *Door) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running
}

// Addr returns the address, with the bound port: HOST:PORT or unix:///PATH. Before Start it returns
// the configured address.
func (d *Door) Addr() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ln == nil || d.addr.path != "" {
		return d.addr.String()
	}
	return d.ln.Addr().String()
}
