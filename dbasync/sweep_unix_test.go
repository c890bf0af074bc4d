//go:build unix

package dbasync

import (
	"testing"

	"millrace/dbasync/internal/pgfault"
)

// TestEveryMessageMayBeTheLastBehindPgBouncer: the proxy is between the DB and PgBouncer,
// and then between PgBouncer and the server, whose loss the pooler tells in its own words.
func TestEveryMessageMayBeTheLastBehindPgBouncer(t *testing.T) {
	if !*long {
		t.Skip("skipped: minutes long (-long)")
	}
	for _, mode := range []string{PoolSession, PoolTransaction} {
		for _, place := range []string{"before", "behind"} {
			t.Run(mode+" "+place, func(t *testing.T) {
				srv := server(t)
				s := newSweep(t, srv)
				s.pooler = mode
				posts := make([]*post, 4)
				for i := range posts {
					if place == "before" {
						posts[i] = newPost(t, pgBouncer(t, srv, mode))
						continue
					}
					p := pgfault.New(t, hostOf(t, srv.URL()))
					posts[i] = &post{p, pgBouncerTo(t, srv, atHost(t, srv.URL(), p.Addr()), mode)}
				}
				s.all(posts, mode+", proxy "+place, []pgfault.Act{pgfault.Reset, pgfault.Finish}, 0)
			})
		}
	}
}
