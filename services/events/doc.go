// Package events stores delay events that survive the process (services.Durable) in a table of
// PostgreSQL, and provides a manager's database.
//
//	m, err := services.New(services.Config{
//		DB: events.Database(dbasync.Config{URL: url}, events.Config{}),
//	})
//	db := events.DB(m) // *dbasync.DB; in a stage events.DB(ctx)
//
// An event stays in the table until a service has run it without an error. Any process with the
// service on the same database may run it; rows are claimed with SKIP LOCKED.
//
// Each event runs at least once: it runs again, with the same Context.Key, if its process dies or
// hangs for longer than the lease, if it fails, or if its completion can't be recorded in the
// database. While the lease is valid there is one copy in all processes, and never more than one in
// a process. A process that hung for longer than the lease may continue its copy concurrently with
// the new one; the result of the old copy is then ignored. Times are those of the database's clock;
// no event is early by it.
//
// Events run on the pool. Start and Stop block; Store and Cancel don't.
package events
