package services

import "context"

// Service is what the manager starts and stops: the pool, the timers, the
// database, the server, the cache, and the program's own. The seed's IService.
type Service interface {
	// Start makes it work; it returns when it does, or why it can't.
	Start(ctx context.Context) error
	// Stop ends it and every goroutine it started, in order while ctx lasts,
	// at once after. It may be called twice, and before Start.
	Stop(ctx context.Context) error
	// Running says whether it works now.
	Running() bool
}
