package dbasync

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// cleanState resets a connection to its initial state, except for its prepared statements, which
// pgx tracks.
const cleanState = "close all; unlisten *; select pg_advisory_unlock_all(); discard temp; discard sequences; reset session authorization; reset all"

// Keys of what noteSettings records on a connection.
const (
	ownSettings = "millrace settings"
	ownTimeout  = "millrace statement_timeout" // AfterConnect has set it
)

// noteSettings records what AfterConnect has SET, as SQL that sets it again. Custom settings
// (app.tenant) are not in the server's list and are not recorded. before is the SQL that the
// connection began with.
func noteSettings(ctx context.Context, c *pgx.Conn, before string) error {
	rows, err := c.Query(ctx, "select name, setting from pg_settings where source = 'session'", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("settings of AfterConnect: %w", err)
	}
	var set strings.Builder
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		fmt.Fprintf(&set, "; select set_config(%s, %s, false)", literal(name), literal(value))
		if name == "statement_timeout" && !strings.Contains(before, literal(name)) {
			c.PgConn().CustomData()[ownTimeout] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("settings of AfterConnect: %w", err)
	}
	c.PgConn().CustomData()[ownSettings] = set.String()
	return nil
}

// literal quotes text for SQL; the result doesn't depend on standard_conforming_strings.
func literal(text string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, "'", "''").Replace(text) + "'"
}

// clean resets what a job has set on its connection and applies the settings of AfterConnect again;
// a connection that can't be cleaned is closed. The job's completion has been submitted before.
func (s *slowPool) clean(ctx context.Context, c *pgxpool.Conn) {
	pc := c.Conn().PgConn()
	if pc.IsClosed() || pc.TxStatus() != 'I' {
		return // the pool closes it
	}
	ctx, cancel := context.WithTimeout(ctx, s.db.cfg.ConnectTimeout)
	defer cancel()
	own, _ := pc.CustomData()[ownSettings].(string)
	if err := pc.Exec(ctx, cleanState+own).Close(); err != nil {
		ctx, cancel := parting(ctx, c)
		defer cancel()
		c.Conn().Close(ctx)
	}
}
