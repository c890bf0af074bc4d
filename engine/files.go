package engine

import (
	"fmt"
	"strings"

	"millrace/engine/internal/gnetio"
)

// ownFiles is how many descriptors are reserved for uses other than connections.
const ownFiles = 32

// reserve returns how many descriptors are reserved for uses other than sessions.
func (srv *Server) reserve() int { return ownFiles + srv.cfg.MaxRefused }

// fitFiles adapts MaxConns to the open-file limit.
func (srv *Server) fitFiles() error {
	limit := srv.openFiles()
	backlog := 0
	if srv.cfg.Accept == AcceptSingle || srv.hasUnix() {
		backlog = srv.backlog() // the single acceptor accepts a whole backlog before a loop can refuse
	}
	kept := srv.reserve()
	most := limit - kept - backlog
	switch {
	case srv.cfg.MaxConns == 0:
		srv.mu.Lock()
		srv.cfg.MaxConns = min(10_000, most)
		srv.mu.Unlock()
		if most < 1 {
			return &ConfigError{"MaxConns", "auto", fmt.Sprintf("the open-file limit of %d leaves no room (%d kept, %d for the backlog): raise it above %d (ulimit -n)", limit, kept, backlog, kept+backlog)}
		}
	case srv.cfg.MaxConns > most:
		return &ConfigError{"MaxConns", srv.cfg.MaxConns, fmt.Sprintf("the open-file limit of %d holds at most %d (%d kept, %d for the backlog): lower it, or raise the limit (ulimit -n)", limit, max(most, 0), kept, backlog)}
	}
	srv.shedAt(limit)
	return nil
}

// shedAt sets from which number of open files on connections are refused: nine tenths of the limit,
// or more if MaxConns needs it.
func (srv *Server) shedAt(limit int) {
	srv.fdShed.Store(int64(max(limit*9/10, min(limit-16, srv.cfg.MaxConns+srv.reserve()*3/4))))
}

// guardFiles checks the open files; the limit may have changed meanwhile.
func (srv *Server) guardFiles() {
	srv.shedAt(srv.openFiles())
	srv.net.Guard()
}

// openFiles returns the open-file limit, backlog how many connections may wait on one listener.
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
