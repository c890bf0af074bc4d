package main

import (
	"io"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// belonging is a feature, and the flags that have no effect without it.
type belonging struct {
	needs string // the feature, for an error message
	has   func(c *serveCmd) bool
	flags []string
}

// Only such flags are here as somebody relies on: who gives them without the feature has left something
// out. Limits and sizes of what is not there are harmless, and often given to servers of every kind.
var belongings = []belonging{
	{"--admin", func(c *serveCmd) bool { return c.Admin != "" }, []string{"admin-token-file", "admin-write", "admin-pprof", "admin-trace"}},
	{"an --addr of tls://, wss:// or auto://", func(c *serveCmd) bool { return c.Addr.secure() }, []string{"tls-min"}},
	{"an --addr of ws://, wss:// or auto://", func(c *serveCmd) bool { return c.Addr.speaks("ws", "wss", "auto") }, []string{"ws-origin"}},
	{"--resume and --cluster", func(c *serveCmd) bool { return c.Resume != 0 && c.Cluster != "" }, []string{"handover"}},
	{"--db", func(c *serveCmd) bool { return c.DB != "" }, []string{"db-dir"}},
	{"--cluster", func(c *serveCmd) bool { return c.Cluster != "" }, []string{"cluster-dir"}},
	{"--cluster=nats://…", func(c *serveCmd) bool { return c.Cluster != "" && c.Cluster != "embedded" },
		[]string{"cluster-creds", "cluster-nkey", "cluster-tls-ca", "cluster-tls-cert", "cluster-tls-key"}},
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
