package engine

import (
	"fmt"
	"strings"

	"millrace/engine/internal/gnetio"
)

// ownFiles is how many descriptors are kept for what is no connection.
const ownFiles = 32

// reserve is how many descriptors are kept for what is no session.
func (srv *Server) reserve() int { return ownFiles + srv.cfg.MaxRefused }

// fitFiles fits MaxConns to the open-file limit.
func (srv *Server) fitFiles() error {
	limit := srv.openFiles()
	backlog := 0
	if srv.cfg.Accept == AcceptSingle || srv.hasUnix() {
		backlog = srv.backlog() // the single acceptor takes a whole backlog before a loop can refuse
	}
	kept := srv.reserve()
	most := limit - kept - backlog
	switch {
	case srv.cfg.MaxConns == 0:
		srv.mu.Lock()
		srv.cfg.MaxConns = min(10_000, most)
		srv.mu.Unlock()
		if most < 1 {
			return &ConfigError{"MaxConns", 0, fmt.Sprintf("the open-file limit of %d leaves no room (%d kept, %d for the backlog): raise it (ulimit -n), or use reuseport accepting", limit, kept, backlog)}
		}
	case srv.cfg.MaxConns > most:
		return &ConfigError{"MaxConns", srv.cfg.MaxConns, fmt.Sprintf("the open-file limit of %d holds at most %d (%d kept, %d for the backlog): lower it, or raise the limit (ulimit -n)", limit, max(most, 0), kept, backlog)}
	}
	srv.shedAt(limit)
	return nil
}

// shedAt fits what is refused for want of files to the open-file limit: from nine tenths
// of it on, or later where MaxConns needs more.
func (srv *Server) shedAt(limit int) {
	srv.fdShed.Store(int64(max(limit*9/10, min(limit-16, srv.cfg.MaxConns+srv.reserve()*3/4))))
}

// guardFiles looks after the open files; the limit may have been changed meanwhile.
func (srv *Server) guardFiles() {
	srv.shedAt(srv.openFiles())
	srv.net.Guard()
}

// openFiles is how many descriptors may be open, backlog how many connections may wait for
// one listener.
func (srv *Server) openFiles() int {
	if srv.machine != nil {
		return srv.machine.Files()
	}
	return gnetio.OpenFileLimit()
}

func (srv *Server) backlog() int {
	if srv.machine != nil {
		return srv.machine.Backlog()
	}
	return gnetio.Backlog()
}

func (srv *Server) hasUnix() bool {
	for _, a := range srv.cfg.Addrs {
		if a, _ := parseAddr(a); strings.HasPrefix(a.Socket, "unix:") {
			return true
		}
	}
	return false
}
