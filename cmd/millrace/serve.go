package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"

	"millrace/cmd/millrace/internal/reference"
	"millrace/cmd/millrace/internal/refservices"
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
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	manager := newNotifier(os.Environ())
	behind, err := startBackends(context.Background(), &c.backendFlags, cfg, c.Admin != "", map[string]fs.FS{"reference": reference.Schema, "users": refservices.Schema})
	if err != nil {
		return err
	}
	defer func() {
		if exitCode(err) > exitSignal {
			return // at once: the backends end with the process
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		behind.stop(ctx)
	}()
	if err := behind.serve(c.UnsafeDemo); err != nil {
		return exitf(exitFailed, "%w", err)
	}
	controller := behind.services.Controller
	var handler engine.Handler = controller
	if framer != nil && !framer.Handles() {
		handler = reference.Echo{}
	}
	cfg = c.config(&c.frameFlags, framer, controller.Dispatch(), log)
	cfg.Pool, cfg.Doors = behind.pool, doors
	tap, stopTap, err := c.tap(&c.frameFlags, cfg.MaxFrame, src, log)
	if err != nil {
		return err
	}
	defer stopTap()
	cfg.Tap = tap
	if cfg.Recorder != engine.RecorderOff {
		cfg.OnFlight = logFlights(log)
	}
	srv, err := engine.New(cfg, handler)
	if err != nil {
		return startError(err, src)
	}
	if err := behind.startNode(context.Background(), srv); err != nil {
		return err
	}
	if err := srv.Start(context.Background()); err != nil {
		return startError(err, src)
	}
	defer watchCertificates(store, hup, log)()
	defer limitMemory(srv, behind, cfg.MemoryBudget)()
	settings := &serveSettings{flags: ctx.Selected().Flags, srv: srv, level: level}
	stopDoor, err := c.open(token, srv, behind, settings, time.Duration(c.DrainTimeout), log)
	if err != nil {
		return errors.Join(err, srv.Stop(context.Background()))
	}
	defer stopDoor()
	fmt.Fprintln(stdout, "ready "+strings.Join(srv.URLs(), " "))
	defer manager.ready(func() bool { return lives(srv) })()
	select {
	case <-srv.Done():
		return exitf(exitFailed, "the engine failed: %w", srv.Err())
	case <-signals:
	}
	manager.say("STOPPING=1")
	err = drain(srv, behind, time.Duration(c.DrainTimeout), signals)
	return err
}

// Signals less than sameSignal apart count as one: timeout(1) and others signal a process, and then its
// group.
const sameSignal = 50 * time.Millisecond

// drain stops srv, waiting for up to d for its sessions. A second signal ends the process at once.
func drain(srv *engine.Server, behind *backends, d time.Duration, signals <-chan os.Signal) error {
	ctx := context.Background()
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	stopped := make(chan error, 1)
	go func() {
		behind.leaveNode(ctx, d)
		stopped <- srv.Stop(ctx)
	}()
	for begun := time.Now(); ; {
		select {
		case err := <-stopped:
			return stopError(err)
		case sig := <-signals:
			if time.Since(begun) < sameSignal {
				continue
			}
			n, _ := sig.(syscall.Signal)
			return exitf(exitSignal+int(n), "stopped at once by a second signal (%v)", sig)
		}
	}
}

func stopError(err error) error {
	var loss *engine.LossError
	switch {
	case errors.As(err, &loss):
		return exitf(exitLoss, "drained with losses at --drain-timeout: %d sessions cut off, %d requests not answered, %d bytes not sent",
			loss.Sessions, loss.Frames, loss.Bytes)
	case err != nil:
		return exitf(exitFailed, "stop: %w", err)
	}
	return nil
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
