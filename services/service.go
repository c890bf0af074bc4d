package services

import "context"

// Service is something that the manager starts and stops: the pool, the timers, the database, the
// server, the cache, and the program's own services.
type Service interface {
	// Start starts the service; it returns when the service works, or an error.
	Start(ctx context.Context) error
	// Stop ends the service and every goroutine it started, in an orderly way until ctx ends, and
	// then at once. It may be called twice, and before Start.
	Stop(ctx context.Context) error
	// Running reports whether the service works at present.
	Running() bool
}
