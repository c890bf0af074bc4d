// Package migrate brings a database's schema to the version the program needs, when
// the program starts.
//
//	//go:embed sql/*.sql
//	var files embed.FS
//
//	n, err := migrate.Run(ctx, url, "world", files)
//
// A migration is a file NNN_name.sql; NNN is its version, from 1 without gaps. Each runs once, on a
// connection of its own, in one transaction with the record that it ran, in the table
// schema_migrations (millrace_migrations if that table belongs to another tool). Programs that
// start at the same time take turns by an advisory lock. A file that has run must not change: its
// checksum is recorded (line endings, LF or CRLF, don't matter). Run blocks.
//
// A file may SET parameters, search_path too, as the output of pg_dump does; they are reset
// afterwards. COPY … FROM stdin and psql's backslash commands are refused with an error, except
// pg_dump's restrict lines. A statement that can't run in a transaction (CREATE INDEX CONCURRENTLY,
// VACUUM) must be alone in its file. Its record is written after it: if the program ends in
// between, the file runs again, so write it so that it can.
package migrate
