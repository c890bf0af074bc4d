package cluster

import (
	"context"
	"errors"
)

// errCut ends an exchange whose connection was lost: its answer can't arrive any more.
var errCut = errors.New("the connection was lost")

// line stands for one connection to the servers; ctx ends when it is lost.
type line struct {
	ctx context.Context
	end context.CancelFunc
}

func newLine() *line {
	ctx, end := context.WithCancel(context.Background())
	return &line{ctx, end}
}

// cut ends the exchanges of a connection that was lost. It runs on a goroutine of the client
// library, possibly when there is a new connection already.
func (l *connection) cut() { l.line.Swap(newLine()).end() }

// exchange returns the context of one exchange with the servers. It ends after Config.Timeout, or
// when the connection is lost: a lease that was being renewed would otherwise wait for an answer
// until it has ended, although the servers are back at once.
func (b *bucket) exchange(ctx context.Context) (context.Context, context.CancelFunc) {
	l := b.store
	line, nth := l.line.Load(), l.nth()
	ctx, end := context.WithTimeout(ctx, b.timeout)
	ctx, lose := context.WithCancelCause(ctx)
	stop := context.AfterFunc(line.ctx, func() {
		if l.nth() != nth || !l.nc.IsConnected() { // else it was an earlier connection that was lost
			lose(errCut)
		}
	})
	return ctx, func() {
		stop()
		lose(nil)
		end()
	}
}

// failed is translate for an error of an exchange with the context ctx.
func failed(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errCut) {
		err = errCut
	}
	return translate(err)
}
