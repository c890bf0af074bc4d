package services

import (
	"context"
	"fmt"
	"strings"

	"millrace/dbasync"
)

// Migrate brings a set of tables up to date: steps are single SQL statements,
// each run once in the life of a database, in their order; what was released
// is never changed, only added to. All of it happens or none of it, and
// processes that start together don't disturb each other. It blocks.
//
// What has been run stands in the table millrace_migrations, by name and number.
func Migrate(ctx context.Context, db *dbasync.DB, name string, steps []string) error {
	done := make(chan error, 1)
	err := db.Exec(ctx, nil, func(r dbasync.QueryResult) { done <- r.Err },
		dbasync.Stmt{SQL: migration(name, steps), Slow: true})
	if err == nil {
		err = <-done
	}
	if err != nil {
		return fmt.Errorf("services: migrate %s: %w", name, err)
	}
	return nil
}

// migration is one DO block, so that it needs no transaction of its own. The
// advisory lock keeps two of them apart, the creation of the table included.
func migration(name string, steps []string) string {
	var b strings.Builder
	b.WriteString(`do $migrate$ begin
perform pg_advisory_xact_lock(7267731206);
create table if not exists millrace_migrations (
	name text, step int, at timestamptz not null default now(), primary key (name, step));
`)
	for i, step := range steps {
		fmt.Fprintf(&b, "if not exists (select from millrace_migrations m where m.name = %s and m.step = %d) then\n%s;\n", quote(name), i+1, step)
		fmt.Fprintf(&b, "insert into millrace_migrations (name, step) values (%s, %d);\nend if;\n", quote(name), i+1)
	}
	b.WriteString("end $migrate$")
	return b.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
