package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/internal/userfile"
	"millrace/services"
	"millrace/services/admin"
	"millrace/services/nodes"
)

// adminFlags configure the admin server.
type adminFlags struct {
	Admin          string  `group:"admin" placeholder:"ADDR" help:"Address of the admin server, which serves health, metrics and state over HTTP: HOST:PORT of a loopback address, or unix:///PATH (none)."`
	AdminTokenFile string  `group:"admin" placeholder:"FILE" help:"Require the token in this file for every request (Authorization: Bearer); then --admin may be an address that others can reach (none)."`
	AdminWrite     bool    `group:"admin" help:"Allow changes by POST: drain, kick, set (false)."`
	AdminPprof     bool    `group:"admin" help:"Also serve /debug/pprof (false)."`
	AdminTrace     timeout `group:"admin" default:"off" placeholder:"D" help:"Keep the last D of the runtime's execution trace for /trace, which costs a few percent of CPU; off: /trace records only while it is requested (${default})."`
	AdminClients   count   `group:"admin" default:"16" placeholder:"N" help:"Limit of open connections of --admin: for a further one, the one that has waited longest for a request is closed (${default})."`
}

// token checks the flags, and reads the token.
func (f *adminFlags) token(src *sources, log *slog.Logger) (string, error) {
	if f.Admin == "" {
		return "", nil
	}
	token := ""
	if f.AdminTokenFile != "" {
		t, open, err := readToken(f.AdminTokenFile)
		if err != nil {
			return "", exitf(exitUsage, "--admin-token-file %q: %w%s", f.AdminTokenFile, err, src.from("admin-token-file"))
		}
		if open {
			log.Warn("others can read this file, as it is not of mode 0600", "admin-token-file", f.AdminTokenFile)
		}
		token = t
	}
	if err := admin.CheckAddr(f.Admin, token != ""); err != nil {
		_, why, _ := strings.Cut(strings.TrimPrefix(err.Error(), "admin: Addr = "), ": ")
		return "", exitf(exitUsage, "--admin %q: %s%s", f.Admin, strings.Replace(why, "give a token", "give --admin-token-file", 1), src.from("admin"))
	}
	return token, nil
}

// readToken reads a token from a file. open reports whether other users can read the file.
func readToken(name string) (token string, open bool, err error) {
	b, err := userfile.Read(name, userfile.MaxToken)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return "", false, err
	}
	token = strings.TrimSpace(string(b))
	switch {
	case token == "":
		return "", false, errors.New("the file is empty; put a token into it")
	case strings.ContainsFunc(token, unicode.IsSpace):
		return "", false, errors.New("a token is one word")
	case !utf8.ValidString(token) || strings.ContainsFunc(token, func(r rune) bool { return !unicode.IsGraphic(r) }):
		return "", false, errors.New("a token must consist of visible characters; is it UTF-8 text without a byte order mark?")
	}
	info, err := os.Stat(name)
	return token, err == nil && info.Mode().Perm()&0o077 != 0, err
}

// open starts the admin server if --admin is given; stop ends it.
func (f *adminFlags) open(token string, srv *engine.Server, b *backends, settings admin.Settings, drain time.Duration, log *slog.Logger) (stop func(), err error) {
	if f.Admin == "" {
		return func() {}, nil
	}
	cfg := admin.Config{
		Addr: f.Admin, Token: token, Write: f.AdminWrite, Pprof: f.AdminPprof, Trace: time.Duration(f.AdminTrace), MaxClients: int(f.AdminClients),
		Events:    func(id engine.ID) any { return lastEvents(srv, id) },
		SessionID: func(s *engine.Session) string { return b.node.ID(s).String() },
		Server:    srv, Controller: b.services.Controller, Timers: b.timers, Settings: settings, DrainTimeout: drain, Logger: log,
	}
	b.tell(&cfg)
	door, err := admin.New(cfg)
	if err != nil {
		return nil, exitf(exitUsage, "--admin %q: %w", f.Admin, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch err := door.Start(ctx); {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, exitf(exitNoServer, "--admin %s: the address is in use; stop what listens there or give another --admin", f.Admin)
	case err != nil:
		return nil, exitf(exitUsage, "--admin %s: %s; give another --admin", f.Admin, strings.TrimPrefix(err.Error(), "admin: "))
	}
	log.Info("admin: open", "addr", door.Addr(), "write", f.AdminWrite, "pprof", f.AdminPprof)
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = door.Stop(ctx) // its clients had time to finish
	}, nil
}

// lastEvents returns the recorded events of a session, nil without a recorder.
func lastEvents(srv *engine.Server, id engine.ID) any {
	if f, ok := srv.Flight(id); ok && len(f.Events) > 0 {
		return f.Events
	}
	return nil
}

type dbState struct {
	dbasync.Stats
	Connected bool
}

type clusterState struct {
	services.CacheStats
	Connected bool
	Node      nodes.Stats
}

// tell adds the pool, the timers, the database, the cache and the cluster to what the admin server
// shows.
func (b *backends) tell(cfg *admin.Config) {
	f := b.flags
	if b.db != nil {
		cfg.DB = func() any { return dbState{b.db.Stats(), b.ready()} }
		cfg.Checks = append(cfg.Checks, admin.Check{Name: "database", Ready: func() error {
			if !b.ready() {
				return errors.New("not connected")
			}
			return nil
		}})
	}
	if f.Cluster != "" {
		cfg.Cluster = func() any { return clusterState{b.cache.Stats(), b.cache.Running(), b.node.Stats()} }
		cfg.Checks = append(cfg.Checks, admin.Check{Name: "cluster", Ready: func() error {
			if !b.cache.Running() {
				return errors.New("not connected")
			}
			return nil
		}})
	} else {
		cfg.Cache = func() any { return b.cache.Stats() }
	}
	cfg.Limits = func() []admin.Limit {
		all := []admin.Limit{{Name: "max-timers", Used: float64(b.timers.Len()), Max: float64(f.MaxTimers)}}
		if b.db != nil {
			st := b.db.Stats()
			all = append(all, admin.Limit{Name: "db-queue", Used: float64(st.Outstanding), Max: float64(f.DBQueue)},
				admin.Limit{Name: "db-queue-bytes", Used: float64(st.OutstandingBytes), Max: float64(f.DBQueueBytes)})
		}
		if f.Cluster == "" {
			st := b.cache.Stats()
			all = append(all, admin.Limit{Name: "max-keys", Used: float64(st.Entries), Max: float64(f.MaxKeys)},
				admin.Limit{Name: "cache-bytes", Used: float64(st.Bytes), Max: float64(f.CacheBytes)})
		} else {
			all = append(all, admin.Limit{Name: "max-moved", Used: float64(b.node.Stats().Moved), Max: float64(f.MaxMoved)})
		}
		return all
	}
}

// serveSettings are the flags of serve, as /config shows and changes them.
type serveSettings struct {
	flags []*kong.Flag
	srv   *engine.Server
	level *slog.LevelVar

	mu      sync.Mutex
	changed map[string]any // guarded by mu
}

// All implements admin.Settings.
func (s *serveSettings) All() map[string]any {
	all := map[string]any{}
	for _, f := range s.flags {
		if f.Name != "help" && f.Name != "print-config" {
			all[f.Name] = fileValue(f)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(all, s.changed)
	return all
}

// Set implements admin.Settings.
func (s *serveSettings) Set(values map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := maps.Clone(values)
	var level slog.Level
	text, setLevel := rest["log-level"]
	delete(rest, "log-level")
	if setLevel {
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, text) || level.UnmarshalText([]byte(text)) != nil {
			return fmt.Errorf("log-level %q: must be debug, info, warn or error", text)
		}
	}
	for name := range rest {
		if !slices.ContainsFunc(s.flags, func(f *kong.Flag) bool { return f.Name == name }) {
			return fmt.Errorf("%s: no setting has this name; log-level and these can be changed: %s", name, strings.Join(admin.AdjustNames(), ", "))
		}
	}
	if err := s.adjust(rest); err != nil {
		return err
	}
	if setLevel {
		s.level.Set(level)
	}
	if s.changed == nil {
		s.changed = map[string]any{}
	}
	for name, v := range values {
		if name == "handle-dispatch" {
			continue // one of several
		}
		s.changed[name] = v
		if n, err := strconv.Atoi(v); err == nil {
			s.changed[name] = n
		}
	}
	return nil
}

// adjust calls the server's Adjust and translates its errors from field names to flags.
func (s *serveSettings) adjust(values map[string]string) error {
	if len(values) == 0 {
		return nil
	}
	err := admin.Adjust(s.srv, values)
	var lines []string
	for _, e := range flatten(err) {
		var c *engine.ConfigError
		if errors.As(e, &c) {
			lines = append(lines, fmt.Sprintf("%s %s: %s", flagOf(c.Field), valueText(c), inFlags.Replace(c.Why)))
		} else if e != nil {
			lines = append(lines, e.Error())
		}
	}
	if err != nil {
		return errors.New(strings.Join(lines, "; "))
	}
	return nil
}
