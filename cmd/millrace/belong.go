package main

import (
	"io"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"

	"millrace/engine"
)

// belonging is a feature, and the flags that have no effect without it.
type belonging struct {
	needs string // the feature, for an error message
	has   func(c *serveCmd) bool
	flags []string
}

var belongings = []belonging{
	{"--admin", func(c *serveCmd) bool { return c.Admin != "" },
		[]string{"admin-token-file", "admin-write", "admin-pprof", "admin-trace", "admin-clients"}},
	{"an --addr of tls://, wss:// or auto://", func(c *serveCmd) bool { return c.Addr.secure() },
		[]string{"tls-min", "handshake-timeout", "max-handshakes", "handshake-rate"}},
	{"an --addr of ws://, wss:// or auto://", func(c *serveCmd) bool { return c.Addr.speaks("ws", "wss", "auto") },
		[]string{"ws-origin", "ws-compress", "forwarded-for"}},
	{"--ws-compress", func(c *serveCmd) bool { return c.WSCompress }, []string{"ws-ratio"}},
	{"an --addr of a unix socket", func(c *serveCmd) bool { return c.Addr.onUnix() }, []string{"unix-mode"}},
	{"--accept=single or an --addr of a unix socket", func(c *serveCmd) bool { return c.Accept.v == engine.AcceptSingle || c.Addr.onUnix() },
		[]string{"balance"}},
	{"--max-conns-per-ip, --accept-rate-per-ip or --handshake-rate",
		func(c *serveCmd) bool { return c.MaxConnsPerIP != 0 || c.AcceptRatePerIP != 0 || c.HandshakeRate != 0 }, []string{"ipv6-prefix"}},
	{"--resume", func(c *serveCmd) bool { return c.Resume != 0 }, []string{"resume-bytes"}},
	{"--resume and --cluster", func(c *serveCmd) bool { return c.Resume != 0 && c.Cluster != "" },
		[]string{"handover", "max-takeovers", "takeover-bytes", "takeover-timeout", "max-moved"}},
	{"system frames, with --system-frames and --framing=length or varint", func(c *serveCmd) bool { return c.SystemFrames && (c.Framing == "length" || c.Framing == "varint") },
		[]string{"drain-to"}},
	{"--db", func(c *serveCmd) bool { return c.DB != "" },
		[]string{"db-lanes", "db-burst", "db-slow", "db-queue", "db-slow-queue", "db-queue-bytes", "db-timeout"}},
	{"--db=embedded", func(c *serveCmd) bool { return c.DB == "embedded" }, []string{"db-dir"}},
	{"--cluster", func(c *serveCmd) bool { return c.Cluster != "" }, []string{"cluster-lease", "cluster-prefix", "cluster-replicas"}},
	{"--cluster=embedded", func(c *serveCmd) bool { return c.Cluster == "embedded" }, []string{"cluster-dir"}},
	{"--cluster=nats://…", func(c *serveCmd) bool { return c.Cluster != "" && c.Cluster != "embedded" },
		[]string{"cluster-creds", "cluster-nkey", "cluster-tls-ca", "cluster-tls-cert", "cluster-tls-key"}},
	{"the cache of this process, which --cluster replaces", func(c *serveCmd) bool { return c.Cluster == "" }, []string{"max-keys", "cache-bytes"}},
	{"--record-bodies", func(c *serveCmd) bool { return c.RecordBodies != "" }, []string{"record-bodies-limit", "record-bodies-queue"}},
}

// onlyWith refuses flags without the feature that they belong to. Those that have their default are not
// seen as given: a file that --print-config has written has them all.
func (c *serveCmd) onlyWith(flags []*kong.Flag, src *sources) error {
	defaults, err := defaultFlags()
	if err != nil {
		return err
	}
	for _, b := range belongings {
		if b.has(c) {
			continue
		}
		for _, f := range flags {
			if slices.Contains(b.flags, f.Name) && !reflect.DeepEqual(f.Target.Interface(), defaults[f.Name]) {
				return exitf(exitUsage, "--%s: needs %s; give it, or leave this out%s", f.Name, b.needs, src.from(f.Name))
			}
		}
	}
	return nil
}

// defaultFlags returns the values of serve's flags when none is given.
func defaultFlags() (map[string]any, error) {
	parser, err := newParser(new(commands), new(sources), io.Discard, io.Discard, here())
	if err != nil {
		return nil, err
	}
	ctx, err := parser.Parse([]string{"serve"})
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	for _, f := range ctx.Selected().Flags {
		values[f.Name] = f.Target.Interface()
	}
	return values, nil
}
