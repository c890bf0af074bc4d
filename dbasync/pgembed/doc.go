// Package pgembed runs a private PostgreSQL server from binaries that are already installed: a
// throwaway one for a test, or one whose data directory is kept between runs.
//
//	srv, err := pgembed.Start(ctx, pgembed.Config{})
//	if errors.Is(err, pgembed.ErrNotInstalled) { … }
//	defer srv.Stop(context.Background(), pgembed.Fast)
//	pool, err := pgx.Connect(ctx, srv.URL())
//
// The server listens on a unix socket in a directory that only its user may enter and, if
// Config.TCP is set, on 127.0.0.1, with a random password that is in URL and in a file that only
// its user may read. PostgreSQL refuses to run as root, so a root process starts it as another user
// (Config.User). Start and Stop block; the only goroutine that remains is the one that waits for
// the process. If this process dies, the server gets SIGQUIT on Linux and ends; its data directory
// recovers at the next Start.
package pgembed
