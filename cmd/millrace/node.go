package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strconv"
	"time"

	"millrace/cmd/millrace/internal/reference"
	"millrace/engine"
	"millrace/internal/mask"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// nodeName returns the node's name as given, or one made from the host name and the port, which is
// unique on the host.
func (f *backendFlags) nodeName(addrs []string) string {
	if f.Node != "" {
		return f.Node
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "node"
	}
	end := "-p" + strconv.Itoa(os.Getpid())
	for _, a := range addrs {
		if u, err := url.Parse(a); err == nil && u.Port() != "" && u.Port() != "0" {
			end = "-" + u.Port()
			break
		}
	}
	const most = 64
	return nodes.AsName(host[:min(len(host), most-len(end))] + end)
}

// badNode reports an invalid node name.
func badNode(name string) error {
	return exitf(exitUsage, "--node %q: must be 1 to 64 letters, digits, - and _", name)
}

// nodeReach makes broadcasts and groups span all nodes.
type nodeReach struct{ *nodes.Node }

func (r nodeReach) Spans() bool      { return true }
func (r nodeReach) NodeName() string { return r.Name() }

// namedReach is a single server that has a node name.
type namedReach struct {
	reference.Here
	name string
}

func (r namedReach) NodeName() string { return r.name }

// reach returns how far broadcasts and groups go.
func (b *backends) reach() reference.Reach {
	switch {
	case b.flags.Cluster != "":
		return nodeReach{b.node}
	case b.flags.Node != "":
		return namedReach{name: b.node.Name()}
	}
	return reference.Here{}
}

// startNode makes the node join the cluster, with the server's sessions.
func (b *backends) startNode(ctx context.Context, srv *engine.Server) error {
	b.node.Attach(srv, b.pool)
	err := b.node.Start(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrName):
		return exitf(exitNoServer, "--node %q: another node of the cluster has this name; give another --node", b.node.Name())
	}
	return exitf(exitFailed, "--cluster %q: %w", mask.Conn(b.flags.Cluster), mask.Error(err))
}

// leaveNode announces to the other nodes that this node leaves, and moves its rooms to them, within
// a part of the drain's time.
func (b *backends) leaveNode(ctx context.Context, d time.Duration) {
	most := 5 * time.Second
	if d > 0 {
		most = min(most, d/4)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	b.node.Drain(ctx)
}
