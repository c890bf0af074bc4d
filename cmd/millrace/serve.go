package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"

	"millrace/cmd/millrace/internal/certs"
	"millrace/cmd/millrace/internal/reference"
	"millrace/cmd/millrace/internal/refservices"
	"millrace/codec"
	"millrace/engine"
	"millrace/internal/mask"
	"millrace/services"
)

// serveCmd is millrace serve.
type serveCmd struct {
	engineFlags
	doorFlags
	frameFlags
	backendFlags
	adminFlags
	recordFlags

	DrainTimeout timeout `group:"times" default:"30s" placeholder:"D" help:"From SIGTERM until the remaining connections are closed; off waits without limit (${default})."`

	UnsafeDemo bool `group:"rest" help:"Enable 1/9, the handler that panics (false)."`

	Config      string `group:"rest" placeholder:"FILE" help:"Read settings from a TOML file: the flags' names as keys."`
	PrintConfig bool   `group:"rest" help:"Print the settings in the file's format and exit."`
	LogLevel    string `group:"rest" enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error (${default})."`
	LogFormat   string `group:"rest" enum:"text,json" default:"text" help:"The log on stderr: text or json (${default})."`
}

func (c *serveCmd) run(ctx *kong.Context, src *sources, stdout, stderr io.Writer) (err error) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE) // ignored: the reader of stdout or stderr may end before the server
	defer signal.Stop(broken)
	out := newLogWriter(stderr)
	defer out.close()
	log, level := newLogger(out, c.LogFormat, c.LogLevel)
	out.lost = func(lines int) { log.Warn("lines of the log are missing here, as nobody read it", "lines", lines) }
	framer, err := c.framer(c.maxFrame(), src)
	if err != nil {
		return err
	}
	cfg := c.config(&c.frameFlags, framer, nil, log)
	if err := c.onlyFiles(src); err != nil {
		return err
	}
	doors, store, err := c.doors(src)
	if err != nil {
		return err
	}
	cfg.Doors = doors
	if _, err := engine.New(cfg, new(services.Controller)); err != nil { // only to check cfg
		return startError(err, src)
	}
	if a, ok := c.Addr.twice(); ok {
		return exitf(exitUsage, "--addr %q: given twice; leave one out%s", a, src.from("addr"))
	}
	if err := c.onlyWithTLS(c.Addr, src); err != nil {
		return err
	}
	if err := c.onlyWith(ctx.Selected().Flags, src); err != nil {
		return err
	}
	token, err := c.token(src, log)
	if err != nil {
		return err
	}
	if c.PrintConfig {
		return printConfig(stdout, ctx.Selected().Flags)
	}
	if name := src.open(); name != "" {
		log.Warn("others can read this file of passwords, as it is not of mode 0600", "config", name)
	}
	return untilSignals(func(stop context.Context) error {
		return c.serve(stop, hup, &checked{cfg, framer, store, token, src, ctx.Selected().Flags, log, level}, stdout)
	})
}

// checked is what the flags say, before anything is started.
type checked struct {
	cfg    engine.Config
	framer codec.Framer
	store  *certs.Store
	token  string // of the admin server
	src    *sources
	flags  []*kong.Flag
	log    *slog.Logger
	level  *slog.LevelVar
}

// serve starts the server, and drains it when stop ends. A start in which stop ends is undone, which is
// no error.
func (c *serveCmd) serve(stop context.Context, hup <-chan os.Signal, x *checked, stdout io.Writer) (err error) {
	ctx, cancel := context.WithCancel(context.Background()) // of the start; what it has started goes on in a drain
	defer cancel()
	begun, up := context.AfterFunc(stop, cancel), false
	defer func() {
		if !up && ctx.Err() != nil {
			x.log.Info("stopped before it was ready", "err", err)
			err = nil
		}
	}()
	manager := newNotifier(os.Environ())
	behind, err := startBackends(ctx, &c.backendFlags, x.cfg, c.Admin != "", map[string]fs.FS{"reference": reference.Schema, "users": refservices.Schema})
	if err != nil {
		return err
	}
	defer behind.stop()
	if err := behind.serve(c.UnsafeDemo); err != nil {
		return exitf(exitFailed, "%w", err)
	}
	controller := behind.services.Controller
	var handler engine.Handler = controller
	if x.framer != nil && !x.framer.Handles() {
		handler = reference.Echo{}
	}
	cfg := c.config(&c.frameFlags, x.framer, controller.Dispatch(), x.log)
	cfg.Pool, cfg.Doors = behind.pool, x.cfg.Doors
	tap, stopTap, err := c.tap(&c.frameFlags, cfg.MaxFrame, x.src, x.log)
	if err != nil {
		return err
	}
	defer stopTap()
	cfg.Tap = tap
	if cfg.Recorder != engine.RecorderOff {
		cfg.OnFlight = logFlights(x.log)
	}
	srv, err := engine.New(cfg, handler)
	if err != nil {
		return startError(err, x.src)
	}
	if err := behind.startNode(ctx, srv); err != nil {
		return err
	}
	if err := srv.Start(ctx); err != nil {
		return startError(err, x.src)
	}
	defer watchCertificates(x.store, hup, x.log)()
	defer limitMemory(srv, behind, cfg.MemoryBudget)()
	settings := &serveSettings{flags: x.flags, srv: srv, level: x.level}
	stopDoor, err := c.open(x.token, srv, behind, settings, time.Duration(c.DrainTimeout), x.log)
	if err != nil {
		return errors.Join(err, srv.Stop(context.Background()))
	}
	defer stopDoor()
	begun()
	up = true
	fmt.Fprintln(stdout, "ready "+strings.Join(srv.URLs(), " "))
	defer manager.ready(func() bool { return lives(srv) })()
	select {
	case <-srv.Done():
		return exitf(exitFailed, "the engine failed: %w", srv.Err())
	case <-stop.Done():
	}
	manager.say("STOPPING=1")
	return drain(srv, behind, time.Duration(c.DrainTimeout))
}

// startError translates an error of engine.New or Start from field names to flags.
func startError(err error, src *sources) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return exitf(exitNoServer, "%s; stop what listens there or give another --addr", trim(err))
	}
	var lines []string
	for _, e := range flatten(err) {
		var c *engine.ConfigError
		if errors.As(e, &c) {
			f := flagOf(c.Field)
			lines = append(lines, fmt.Sprintf("--%s %s: %s%s", f, valueText(c), inFlags.Replace(c.Why), src.from(f)))
			continue
		}
		if field, rest, ok := strings.Cut(trim(e), " "); ok && strings.HasPrefix(e.Error(), "codec: ") {
			lines = append(lines, codecText(field, rest))
			continue
		}
		if !badAddress(e) {
			return exitf(exitFailed, "%w", err)
		}
		lines = append(lines, trim(e)+"; give another --addr"+src.from("addr"))
	}
	return exitf(exitUsage, "%s", strings.Join(lines, "; "))
}

// inFlags replaces the field names in the engine's errors by flags.
var inFlags = strings.NewReplacer("NoSystemFrames", "--system-frames=false", "set TLS", "give --tls-cert and --tls-key, or --tls-self-signed", "TLS.ClientAuth", "--tls-client-ca")

// codecText describes a fault that codec.New found in the layout.
func codecText(field, rest string) string {
	if field == "frame" {
		return "--max-frame" + strings.TrimPrefix(rest, "limit")
	}
	return "--" + flagOf(field) + " " + rest
}

// badAddress reports whether the system rejected a given address.
func badAddress(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return strings.HasPrefix(err.Error(), "engine: listen ") || errors.As(err, &op) || errors.As(err, &dns) || errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENOTDIR)
}

func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

// trim removes the package name at the beginning of an error.
func trim(err error) string {
	s := err.Error()
	if _, rest, ok := strings.Cut(s, ": "); ok && (strings.HasPrefix(s, "engine: ") || strings.HasPrefix(s, "codec: ")) {
		return rest
	}
	return s
}

func valueText(c *engine.ConfigError) string {
	if s, ok := c.Value.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(c.Value)
}

// printConfig writes flags in the format of the file that --config reads.
func printConfig(w io.Writer, flags []*kong.Flag) error {
	enc := toml.NewEncoder(w)
	for _, f := range flags {
		switch f.Name {
		case "help", "config", "print-config":
			continue
		}
		if err := enc.Encode(map[string]any{f.Name: fileValue(f)}); err != nil {
			return fmt.Errorf("--print-config: %w", err)
		}
	}
	return nil
}

// fileValue returns a flag's value as it is written in a file.
func fileValue(f *kong.Flag) any {
	switch v := f.Target.Interface().(type) {
	case string:
		if f.Name == "db" || f.Name == "cluster" {
			return mask.Conn(v)
		}
		return v
	case addrs:
		return []string(v)
	case texts:
		return append([]string{}, v...)
	case routes:
		out := []string{}
		for _, r := range v {
			out = append(out, r.String())
		}
		return out
	case handleWaits:
		out := []string{}
		for _, w := range v {
			out = append(out, w.String())
		}
		return out
	case count:
		return int(v)
	case limit:
		if v != 0 {
			return int(v)
		}
		return v.String()
	case auto:
		if v != 0 {
			return int(v)
		}
		return v.String()
	case fmt.Stringer:
		return v.String()
	default:
		return v
	}
}
