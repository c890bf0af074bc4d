package nodes

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/services/cluster"
	"millrace/services/serial"
)

// Config configures a Node. A zero field means the default.
type Config struct {
	// Name is the node's name: 1 to 64 letters, digits, '-' and '_'. Default: the host's name with
	// other characters replaced.
	Name string
	// Cache provides the locks, the store and the connection to other nodes. It must be started
	// before the node; if its servers are unavailable then, the node joins when they are reachable.
	// Nil: the node is alone.
	Cache *cluster.Cache
	// Addrs are the node's addresses, published to other nodes; at most 16, of 256 bytes each.
	Addrs []string
	// Serializer is for calls; default JSON.
	Serializer serial.Serializer

	// Timeout limits requests to other nodes, except calls with a deadline; default 2 s.
	Timeout time.Duration
	// Patience is how long a message from another node waits while the engine's outboxes are full;
	// default 1 s. Then it is dropped: counted, and reported as a Gap.
	Patience time.Duration
	// NameWait is how long Start waits for a name that another node holds; default two leases.
	NameWait time.Duration
	// GroupIdle is how long a group without members here and without sends from here is kept;
	// default 10 s.
	GroupIdle time.Duration

	MaxInbound      int // queued messages from others, of each kind; 8,192
	MaxOutbound     int // queued messages to others; 8,192
	MaxAsks         int // requests to others in progress; 65,536
	MaxCalls        int // calls of others running here; 1,024
	MaxHops         int // length of a chain of calls; 8
	MaxGroups       int // groups with members here, or sent to from here; 100,000
	MaxUsers        int // users bound to sessions here; 1,000,000
	MaxSessionUsers int // users of one session; 64

	// When a client connects with the token of a session of another node, this node takes the
	// session over, if the server's handler implements engine.Handoff: at most MaxTakeovers (64) at
	// a time, each within TakeoverTimeout (3 s); after that the client gets a new session.
	// TakeoverBytes (1 MiB) limits the state of a session together with what is sent to its groups
	// during the move. Moving sessions take at most about MaxTakeovers times TakeoverBytes of
	// memory in each direction; further ones wait on their nodes.
	MaxTakeovers    int
	TakeoverBytes   int
	TakeoverTimeout time.Duration
	// MaxMoved limits how many sessions that other nodes have taken over are remembered, each for as
	// long as its client may still use the old token; 65,536. Beyond that the oldest is forgotten:
	// its client gets a new session, and a send to its user in progress reports that there is none.
	MaxMoved int

	// OnGap is called when messages that were sent to this node have not arrived. It runs on the
	// goroutine that delivers messages and must not block.
	OnGap func(Gap)

	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Gap reports lost messages of a stream.
type Gap struct {
	Node   string // the sender's name; "" if no longer known
	Stream string // "node", "all", or "group " and its name
	Missed uint64 // number of lost messages
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MaxInbound, 8192)
	def(&c.MaxOutbound, 8192)
	def(&c.MaxAsks, 1<<16)
	def(&c.MaxCalls, 1024)
	def(&c.MaxHops, 8)
	def(&c.MaxGroups, 100_000)
	def(&c.MaxUsers, 1_000_000)
	def(&c.MaxSessionUsers, 64)
	def(&c.MaxTakeovers, 64)
	def(&c.TakeoverBytes, 1<<20)
	def(&c.MaxMoved, 1<<16)
	if c.Name == "" {
		c.Name = hostName()
	}
	if c.Serializer == nil {
		c.Serializer = serial.JSON(serial.Limits{})
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.TakeoverTimeout == 0 {
		c.TakeoverTimeout = 3 * time.Second
	}
	if c.Patience == 0 {
		c.Patience = time.Second
	}
	if c.NameWait == 0 && c.Cache != nil {
		c.NameWait = 2 * c.Cache.Lease()
	}
	if c.GroupIdle == 0 {
		c.GroupIdle = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Addrs = slices.Clone(c.Addrs)
	return c
}

func (c Config) validate() error {
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("nodes: "+format, args...))
		}
	}
	want(IsName(c.Name), "Name %q: must be 1 to %d letters, digits, '-' and '_'", c.Name, maxName)
	want(areAddrs(c.Addrs), "Addrs %q: must be at most %d, of 1 to %d bytes each", c.Addrs, maxAddrs, maxAddr)
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"Timeout", c.Timeout}, {"Patience", c.Patience}, {"NameWait", c.NameWait}, {"GroupIdle", c.GroupIdle}, {"TakeoverTimeout", c.TakeoverTimeout}} {
		want(d.d >= 0, "%s %v: must be above 0; 0 is the default", d.name, d.d)
	}
	for _, l := range []struct {
		name string
		n    int
	}{
		{"MaxInbound", c.MaxInbound}, {"MaxOutbound", c.MaxOutbound}, {"MaxAsks", c.MaxAsks}, {"MaxCalls", c.MaxCalls}, {"MaxHops", c.MaxHops},
		{"MaxGroups", c.MaxGroups}, {"MaxUsers", c.MaxUsers}, {"MaxSessionUsers", c.MaxSessionUsers},
		{"MaxTakeovers", c.MaxTakeovers}, {"TakeoverBytes", c.TakeoverBytes}, {"MaxMoved", c.MaxMoved},
	} {
		want(l.n > 0, "%s %d: must be at least 1; 0 is the default", l.name, l.n)
	}
	want(c.MaxHops <= 255, "MaxHops %d: must be at most 255", c.MaxHops)
	return errors.Join(errs...)
}

const (
	maxName    = 64
	maxAddrs   = 16
	maxAddr    = 256
	maxHandles = 4096
)

// IsName reports whether s is a valid name of a node.
func IsName(s string) bool {
	return len(s) > 0 && len(s) <= maxName && strings.IndexFunc(s, notInName) < 0
}

func notInName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

func areAddrs(addrs []string) bool {
	return len(addrs) <= maxAddrs && !slices.ContainsFunc(addrs, func(a string) bool { return a == "" || len(a) > maxAddr })
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "node"
	}
	return AsName(name)
}

// AsName converts text to a valid name: other characters become '-'.
func AsName(text string) string {
	text = strings.Map(func(r rune) rune {
		if notInName(r) {
			return '-'
		}
		return r
	}, text)
	return text[:min(len(text), maxName)]
}
