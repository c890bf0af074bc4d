package dbasync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Values of Config.PgBouncer: its pool_mode.
const (
	PoolSession     = "session"
	PoolTransaction = "transaction"
)

// ErrRefused: the server, or a pooler in front of it, refuses every connection for a reason that
// waiting does not remove: a startup parameter, a password, a database name. The error's text says
// what to set. The DB continues to try, since the reason may be removed on the server.
var ErrRefused = errors.New("dbasync: connection refused by its settings")

// tracked are the startup parameters that PgBouncer keeps for each client.
var tracked = []string{"application_name", "client_encoding", "datestyle", "standard_conforming_strings", "timezone"}

// poolerSettings removes from params what PgBouncer would refuse at startup, and returns it as SQL
// that sets it for the session.
func poolerSettings(mode string, params map[string]string) (string, error) {
	var set []string
	for name, value := range params {
		if slices.Contains(tracked, strings.ToLower(name)) {
			continue
		}
		if mode == PoolTransaction {
			return "", fmt.Errorf("dbasync: PgBouncer %q can't keep the setting %s=%s: set it with ALTER ROLE or ALTER DATABASE", mode, name, value)
		}
		if name == "options" {
			return "", fmt.Errorf("dbasync: PgBouncer %q can't pass on options=%s: name each setting by itself, as search_path=…", mode, value)
		}
		set = append(set, "select set_config("+literal(name)+", "+literal(value)+", false)")
		delete(params, name)
	}
	slices.Sort(set)
	return strings.Join(set, "; "), nil
}

// setUp sets on a new connection what could not be a startup parameter.
func (db *DB) setUp(ctx context.Context, c *pgconn.PgConn, sql string) error {
	if sql == "" {
		return nil
	}
	if err := c.Exec(ctx, sql).Close(); err != nil {
		return fmt.Errorf("settings of the session: %w", err)
	}
	return nil
}

// afterConnect returns the hook of the pgx connections: it applies db.settings before it calls
// AfterConnect.
func (db *DB) afterConnect() func(context.Context, *pgx.Conn) error {
	after := db.cfg.AfterConnect
	if after == nil && db.settings == "" {
		return nil
	}
	return func(ctx context.Context, c *pgx.Conn) error {
		err := db.setUp(ctx, c.PgConn(), db.settings)
		if err == nil && after != nil {
			err = after(ctx, c)
		}
		if err != nil {
			return err
		}
		return noteSettings(ctx, c, db.settings)
	}
}

// whyRefused wraps an error of connecting in ErrRefused if waiting does not remove its reason, and
// says what to set.
func whyRefused(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	hint := ""
	switch pg.Code {
	case codeProtocol:
		if !strings.Contains(pg.Message, "startup parameter") {
			return err
		}
		hint = "; set Config.PgBouncer to its pool_mode (session or transaction)"
	case codeDupStmt:
		hint = "; it has another client's statements, as behind PgBouncer in transaction mode: set Config.PgBouncer to transaction"
	case "28000", "28P01", "3D000", "22023", "42704": // user, password, database, value, name
	default:
		return err
	}
	return fmt.Errorf("%w%s: %w", ErrRefused, hint, err)
}

// refuse ends the queries that wait for a lane, while none is up.
func (db *DB) refuse(err error) {
	for _, r := range db.q.takeAllForLanes() {
		r.end(NotRun, err)
		r.release()
	}
}

// takeAllForLanes empties the lists that lanes serve, unless one is up.
func (q *queue) takeAllForLanes() (out []*request) {
	q.lock()
	defer q.unlock()
	q.collect()
	for _, l := range q.lanes {
		if l.open {
			return nil
		}
	}
	for _, l := range append(q.keyedLists(), &q.shared, &q.parked) {
		for r := l.head; r != nil; r = l.head {
			l.unlink(r)
			out = append(out, r)
		}
	}
	return out
}
