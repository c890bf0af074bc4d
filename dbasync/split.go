package dbasync

import "context"

// Split sends what only reads to a standby and the rest to the primary. Each is a DB of
// its own on the same list of hosts, told apart by target_session_attrs in its URL:
//
//	Primary: postgres://a,b,c/game?target_session_attrs=read-write
//	Standby: postgres://a,b,c/game?target_session_attrs=prefer-standby
//
// pgx looks for the server at each connect: after a failover the lanes of both find
// their new ones. What a standby answers may lag behind what the primary has acknowledged: a
// query that must see a write of its own goes to Primary, or has a Key.
type Split struct{ Primary, Standby *DB }

// Query is DB.Query: on Standby for a Stmt that is ReadOnly, has no Key and comes while
// Standby is connected, else on Primary.
func (s Split) Query(ctx context.Context, on Submitter, done func(QueryResult), stmt Stmt, args ...any) error {
	return s.For(stmt).Query(ctx, on, done, stmt, args...)
}

// For returns the DB for stmt, for Exec, Stream and the others.
func (s Split) For(stmt Stmt) *DB {
	if stmt.ReadOnly && stmt.Key == 0 && s.Standby != nil && s.Standby.Connected() {
		return s.Standby
	}
	return s.Primary
}
