// Package pgembed runs a PostgreSQL server of one's own from binaries that are
// already installed: a throwaway one for a test, or one whose data directory
// stays from run to run.
//
//	srv, err := pgembed.Start(ctx, pgembed.Config{})
//	if errors.Is(err, pgembed.ErrNotInstalled) { … }
//	defer srv.Stop(context.Background(), pgembed.Fast)
//	pool, err := pgx.Connect(ctx, srv.URL())
//
// The server listens on a unix socket in a directory only its user may enter and,
// when Config.TCP is set, on 127.0.0.1, where it asks for a random password that stands in
// URL and in a file only its user may read. PostgreSQL refuses to run as root, so a
// process that is root starts it under another uid (Config.User). Start and
// Stop block; no goroutine is left behind but the one that waits for the
// process. When this process dies, the server gets SIGQUIT on Linux and ends
// by itself; its data directory recovers at the next Start.
package pgembed
