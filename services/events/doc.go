// Package events keeps delay events that survive the process (services.Durable) in a table
// of PostgreSQL, and gives a manager its database.
//
//	m, err := services.New(services.Config{
//		DB: events.Database(dbasync.Config{URL: url}, events.Config{}),
//	})
//	db := events.DB(m) // *dbasync.DB; in a stage events.DB(ctx)
//
// An event stands in the table until a service has run it without an error. Any process
// with the service on the same database runs it; rows are claimed with SKIP LOCKED.
//
// Each runs at least once: again, with the same Context.Key, when its process dies or
// stands still for longer than the lease, when it fails, or can't tell the database that it
// is done. While the lease holds there is one copy in all processes, and never more than
// one in a process. A process that stood still for longer than the lease may go on with a
// copy beside the new one; what it tells the database of its end then counts for nothing.
// Time is the database's clock; none is early by it.
//
// Events run on the pool. Start and Stop block; Store and Cancel don't.
package events
