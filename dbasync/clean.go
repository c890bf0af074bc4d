package dbasync

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// cleanState leaves a connection as it was when it was made, but for its prepared
// statements, which pgx knows of.
const cleanState = "close all; unlisten *; select pg_advisory_unlock_all(); discard temp; discard sequences; reset session authorization; reset all"

// Keys of what noteSettings has noted.
const (
	ownSettings = "millrace settings"
	ownTimeout  = "millrace statement_timeout" // AfterConnect has set it
)

// noteSettings notes what AfterConnect has SET, as SQL that sets it again. Settings of
// one's own making (app.tenant) are not among what the server lists. before is the SQL that
// the connection began with.
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

// literal quotes text for SQL, whatever standard_conforming_strings says.
func literal(text string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, "'", "''").Replace(text) + "'"
}

// clean takes back what a job has set on its connection; one that can't be cleaned is
// closed. What AfterConnect has set stands again. The job's completion has been handed
// over.
func (s *slowPool) clean(ctx context.Context, c *pgxpool.Conn) {
	pc := c.Conn().PgConn()
	if pc.IsClosed() || pc.TxStatus() != 'I' {
		return // the pool closes it
	}
	ctx, cancel := context.WithTimeout(ctx, s.db.cfg.ConnectTimeout)
	defer cancel()
	own, _ := pc.CustomData()[ownSettings].(string)
	if err := pc.Exec(ctx, cleanState+own).Close(); err != nil {
		c.Conn().Close(context.WithoutCancel(ctx))
	}
}
