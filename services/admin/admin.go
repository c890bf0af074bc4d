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

// Config sets up a Door. Zero fields mean the defaults.
type Config struct {
	// Addr is where it listens: HOST:PORT, port 0 for a free one, or unix:///PATH.
	Addr string
	// Token is what every request must bring (Authorization: Bearer). Empty: none, and HOST
	// must be a loopback address.
	Token string

	// Server is what it tells of. It must have been started when the Door is.
	Server *engine.Server
	// Controller tells of handles, and of sessions that have ended; nil: nobody does.
	Controller *services.Controller
	// Timers; nil: there are none.
	Timers *timerwheel.Service
	// DB, Cache and Cluster return snapshots, structs of counters (uint64) and present values
	// (int), such as dbasync.Stats and services.CacheStats; nil: there is none.
	DB, Cache, Cluster func() any
	// Checks are what the process needs to be ready, beside a server that does not drain.
	Checks []Check
	// Limits are further ones for /limits and /metrics; nil: none.
	Limits func() []Limit
	// Settings are /config's; nil: those of Server.
	Settings Settings
	// SessionID names a session for good, among all processes; nil: by a random number of
	// this process and the session's own ID.
	SessionID func(*engine.Session) string
	// Node is what the page calls this server; empty: the name of the machine.
	Node string
	// Events are the last ones of a session, oldest first, as /sessions/ID is to show them;
	// nil: none are kept.
	Events func(engine.ID) any

	Write bool // allow POST
	Pprof bool // serve /debug/pprof
	// Trace keeps the last of runtime/trace for so long, at least, which costs the process a
	// few percent; 0: /trace records when it is asked, for a second.
	Trace time.Duration
	// DrainTimeout is what a drain has; what is left then is cut off. 0: nothing is.
	DrainTimeout time.Duration

	MaxClients int           // connections served at a time; 16
	Timeout    time.Duration // for a request to come, for the next on its connection, and for an answer to be read; 5 s
	MaxList    int           // sessions in one answer; 1,000
	MaxClosed  int           // sessions that have ended and are remembered; 256
	Logger     *slog.Logger  // nil: slog.Default()
}

// Check is something that the process needs.
type Check struct {
	Name  string       // as "database"
	Ready func() error // nil when it is there. It must not block
}

// Limit is how near something is to its limit.
type Limit struct {
	Name string  `json:"limit"` // of the flag or field, as "max-conns"
	Used float64 `json:"used"`
	Max  float64 `json:"max"`           // 0: there is none
	Who  string  `json:"who,omitempty"` // the session that this is of, where each has its own
}

// Settings are what /config shows and changes.
type Settings interface {
	// All returns them by name, without secrets.
	All() map[string]any
	// Set changes some while the process runs, all of them or, with an error, none.
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

// Door is the operator's door. It is a services.Service.
type Door struct {
	cfg     Config
	addr    address
	token   [sha256.Size]byte // of Config.Token
	name    string            // of this process, among others
	closed  closedRing
	watcher watcher
	http    *http.Server
	reg     http.Handler // /metrics
	paths   map[string]endpoint

	clients atomic.Int64  // connections that are open
	refused atomic.Uint64 // requests

	mu      sync.Mutex
	running bool         // guarded by mu
	ln      net.Listener // guarded by mu; nil: not started
	serving sync.WaitGroup
	trace   tracer
}

var _ services.Service = (*Door)(nil)

// CheckAddr tells what is wrong with a Config.Addr; token: there will be one.
func CheckAddr(addr string, token bool) error {
	_, err := parseAddr(addr, token)
	return err
}

// New checks the settings and starts nothing. Its error tells every fault. A Controller is
// asked to tell of the sessions that end from now on.
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

// Start listens and serves. An address in use is an error that is syscall.EADDRINUSE.
func (d *Door) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ln != nil {
		return errors.New("admin: started before")
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
		ErrorLog: slog.NewLogLogger(d.cfg.Logger.Handler(), slog.LevelDebug),
	}
	d.running = true
	d.watch()
	d.serving.Go(func() {
		err := d.http.Serve(d.ln)
		d.mu.Lock()
		d.running = false
		d.mu.Unlock()
		if !errors.Is(err, http.ErrServerClosed) {
			d.cfg.Logger.Error("admin: the door has closed", "err", err)
		}
	})
	return nil
}

// Stop closes the door: requests under way are waited for until ctx ends.
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

// Running tells whether it serves.
func (d *Door) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running
}

// Addr is where it listens, with the port that was bound: HOST:PORT or unix:///PATH. Before
// Start it is as it was given.
func (d *Door) Addr() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ln == nil || d.addr.path != "" {
		return d.addr.String()
	}
	return d.ln.Addr().String()
}
