// Package dbasync runs SQL over a few shared, pipelined PostgreSQL connections and delivers each
// result to the caller's own executor, a [Submitter]: a session, a room, a pool. No method that takes
// a completion blocks, so they may be called from an event loop.
//
//	db, err := dbasync.New(dbasync.Config{URL: "postgres://…", Pool: pool})
//	if err != nil { … }
//	err = db.Start(ctx) // the server need not be up yet
//	defer db.Stop(ctx)
//	err = db.Query(ctx, session, func(r dbasync.QueryResult) {
//		var name string
//		if err := r.Scan(&name); err != nil { … } // on session's goroutine, in its order
//	}, dbasync.Stmt{SQL: "select name from player where id = $1", Key: id}, 42)
//
// Each accepted query ends exactly once, with one of four outcomes: OK (its commit was acknowledged),
// SQLError (it was rolled back), NotRun (it certainly did not run), MayHaveRun (the connection broke,
// or the timeout expired, before the answer). A query that may have run is not sent again, unless
// Stmt.Retry allows it. Only queries with the same Stmt.Key are ordered.
//
// A completion runs on the query's Submitter. If that is closed, it runs on the DB's pool with Stale
// set; if it is full, it is offered again. When Config.MaxQueueBytes of rows wait for their
// completions, the server is not read until some completions have begun, or until
// Config.DeliveryTimeout drops the rows of the oldest.
//
// The shared connections (lanes) refuse transaction control, temporary tables, session locks and
// statements that PostgreSQL runs outside a transaction block only. They are recognized by the text of
// the statement; session state changed inside a function can't be recognized and must be avoided.
// Transactions, COPY, SET and cursors go through Tx, SendBatch, Do, Stream and the copies, LISTEN
// through Listen, slow statements through Stmt.Slow: these use ordinary pgx connections.
//
// Results are pgx.Rows: pgx.CollectRows, RowToStructByName and the like read them. pgx.NamedArgs may be
// used for arguments. Blocking returns a view like a pgxpool.Pool for callers that may wait, and Await
// waits for any call. Several hosts in the URL, with target_session_attrs, make a DB for reads on a
// standby: [Split].
//
// docs/database.md describes how queries are sent, and the goroutines of a DB.
package dbasync
