package cluster

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialer makes the connections of a nats.Conn. The end of ctx cuts those that are made before begun is
// called: nats.Connect, which tries each server for a while, takes no context.
type dialer struct {
	timeout time.Duration

	mu   sync.Mutex
	ctx  context.Context // guarded by mu
	keep []func() bool   // guarded by mu; each spares a connection
}

func newDialer(ctx context.Context, timeout time.Duration) *dialer {
	return &dialer{ctx: ctx, timeout: timeout}
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	ctx := d.ctx
	d.mu.Unlock()
	conn, err := (&net.Dialer{Timeout: d.timeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == ctx {
		d.keep = append(d.keep, context.AfterFunc(ctx, func() { _ = conn.Close() }))
	}
	return conn, nil
}

// begun makes connections independent of ctx.
func (d *dialer) begun() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = context.WithoutCancel(d.ctx)
	for _, keep := range d.keep {
		keep()
	}
	d.keep = nil
}
