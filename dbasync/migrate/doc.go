// Package migrate brings a database's schema to the version the program needs, when
// the program starts.
//
//	//go:embed sql/*.sql
//	var files embed.FS
//
//	n, err := migrate.Run(ctx, url, "world", files)
//
// A migration is a file NNN_name.sql, NNN its version from 1 without gaps. Each runs
// once, on a connection and in a transaction of its own together with the note that it
// ran, in the table schema_migrations (millrace_migrations where that is another tool's).
// Programs that start at the same time take turns by an advisory lock. A file that has
// run must not change: its checksum is kept; its line ends (LF, CRLF) don't count. Run
// blocks.
//
// A file may SET what it likes, search_path too, as the output of pg_dump does; what it set
// ends with it. COPY … FROM stdin and psql's backslash commands are refused by name, but for
// pg_dump's restrict lines. A statement that can't run in a transaction (CREATE INDEX
// CONCURRENTLY, VACUUM) must be alone in its file. Its note is written after it: when the
// program dies in between, the file runs again, so write it so that it may.
package migrate
