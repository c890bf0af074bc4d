// Package dbasync runs SQL over a few shared, pipelined PostgreSQL connections and
// hands each result to someone else's goroutines. Nothing a caller does blocks, so it
// may be used from an event loop.
//
//	db, err := dbasync.New(dbasync.Config{URL: "postgres://…", Pool: pool})
//	if err != nil { … }
//	err = db.Start(ctx) // the server need not be there yet
//	defer db.Stop(ctx)
//	err = db.Query(ctx, session, func(r dbasync.QueryResult) {
//		var name string
//		if err := r.Scan(&name); err != nil { … } // on session's goroutine, in its order
//	}, dbasync.Stmt{SQL: "select name from player where id = $1", Key: id}, 42)
//
// # How it travels
//
// A lane is a connection with one writer and one reader that always reads. Queries
// wait in one queue for all lanes; a lane takes a burst when at most half of its last
// one is unanswered, so that queries which come together travel together. A burst is
//
//	BEGIN; q1; COMMIT AND CHAIN; q2; …; COMMIT; Sync
//
// all prepared statements: each query commits by itself, and the server
// flushes once. When one fails, the server skips the rest up to the Sync; they have
// certainly not run and go back to the queue. Fewer than three queries have a Sync
// each; a query that has the DB to itself is written by its caller (at most
// 4 KiB, into an empty socket buffer).
//
// # What a query may rely on
//
// Each accepted query ends exactly once, in one of four outcomes: OK (its commit was
// acknowledged), SQLError (it is undone), NotRun (surely), MayHaveRun (the
// connection broke, or its time was up, before the answer). Nothing that may have
// run is sent again, unless Stmt.Retry says so. There is no order between queries
// without a common Stmt.Key. A completion goes to the query's Submitter; when that is
// gone for good, to the DB's pool with Stale set; when it is full, it is offered again.
// When Config.MaxQueueBytes of rows wait for their completions, the server isn't read from
// until some have begun, or until Config.DeliveryTimeout takes the oldest ones' rows.
// A statement may use what an earlier one of its key makes.
//
// What needs a connection of its own (transactions, COPY, SET, cursors) goes through
// Tx, Do and CopyFrom, LISTEN through Listen, and slow statements through Stmt.Slow, on
// ordinary pgx connections. A statement that turns out to be slow on a lane is moved
// there by itself (Config.SlowAfter), keeps Config.StatementTimeout there, and comes back
// when it is quick again; with a key, the rest of the key waits for it beside the lanes.
// Slow work is shared out: submitters take turns, and one leaves connections to others
// (MaxSlowRunning, MaxSlowQueue).
//
// A statement's text tells what a lane refuses: transaction control, temporary tables,
// session locks, and what PostgreSQL runs outside a transaction block only, which needs Stmt.Slow. A
// statement with set_config has a transaction of its own, begun anew. Session state
// hidden inside functions of one's own is the caller's to avoid.
//
// Config.PgBouncer names the pool_mode of a pooler between here and the server. In
// transaction mode each statement is parsed for each use, unnamed. A server or pooler
// that refuses every connection for its settings ends the queries that wait, with
// ErrRefused, which says what to set.
//
// # In pgx's words
//
// SendBatch runs the statements of a pgx.Batch as one transaction, in one write. Tx and
// BeginTxFunc run a function in one, with pgx.TxOptions, and again after a conflict
// (40001, 40P01) when asked to. Stream gives a result of any size in chunks; CopyFrom,
// CopyFromReader and CopyTo load and unload. Blocking is a pgxpool.Pool for callers that
// may wait, Await waits for any call. pgx.NamedArgs may stand for arguments. The Rows of
// a result are pgx.Rows: pgx.CollectRows, RowToStructByName and the like read them.
// Config.AfterConnect registers composite and other own types, for lanes too;
// Config.Tracer and OnNotice see each query with its context. Several hosts in the URL, with
// target_session_attrs, make a DB for reads on a standby: Split.
//
// # Goroutines
//
// Two per lane, Config.SlowConns and TxConns for slow work, one sweeper (timeouts, 50 ms exact),
// one for LISTEN once it is used, short ones that encode arguments when a statement is
// new, and the pool's when Config.Pool is nil. Callbacks run on submitters only; in
// Stop, when these take nothing any more, on its caller's goroutine.
package dbasync
