package cluster

import (
	"context"
	"errors"
	"fmt"

	"millrace/services"
)

// errCut ends an exchange whose connection was lost: its answer can't arrive any more.
var errCut = errors.New("the connection was lost")

// errAway ends an exchange that was not begun.
var errAway = fmt.Errorf("%w: the servers are unreachable", services.ErrCacheDown)

// exchange returns the context of one exchange with the servers. It ends after Config.Timeout, or
// when the connection is lost: a lease that was being renewed would otherwise wait for an answer
// until it has ended, although the servers are back at once.
func (b *bucket) exchange(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithTimeout(ctx, b.timeout)
	ctx, lose := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.store.last.Load().ctx, func() { lose(errCut) })
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
