package dbasync

import "context"

// Split sends read-only statements to a standby and the rest to the primary. Each is a DB on the
// same list of hosts, distinguished by target_session_attrs in its URL:
//
//	Primary: postgres://a,b,c/game?target_session_attrs=read-write
//	Standby: postgres://a,b,c/game?target_session_attrs=prefer-standby
//
// pgx looks for the right server at each connect: after a failover the lanes of both find their new
// servers. A standby's answers may lag behind what the primary has acknowledged: a query that must
// see an earlier write goes to Primary, or has a Key.
type Split struct{ Primary, Standby *DB }

// Query is DB.Query on Standby for a Stmt that is ReadOnly and has no Key, while Standby is
// connected; otherwise on Primary.
func (s Split) Query(ctx context.Context, on Submitter, done func(QueryResult), stmt Stmt, args ...any) error {
	return s.For(stmt).Query(ctx, on, done, stmt, args...)
}

// For returns the DB for stmt, for use with Exec, Stream and the others.
func (s Split) For(stmt Stmt) *DB {
	if stmt.ReadOnly && stmt.Key == 0 && s.Standby != nil && s.Standby.Connected() {
		return s.Standby
	}
	return s.Primary
}
