// Package migrate brings a database's schema to the version the program needs, when
// the program starts.
//
//	//go:embed sql/*.sql
//	var files embed.FS
//
//	n, err := migrate.Run(ctx, url, "world", files)
//
// A migration is a file NNN_name.sql, NNN its version from 1 without gaps. Each runs
// once, in a transaction of its own together with the note that it ran, in the
// table schema_migrations. Programs that start at the same time take turns by an advisory lock.
// A file that has run must not change: its checksum is kept. Run blocks.
package migrate
