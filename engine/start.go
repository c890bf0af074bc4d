package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Start binds the addresses and starts the loops. When it returns nil, connections are
// served. A server starts once. An address in use is an error that is
// syscall.EADDRINUSE and names the address. When it fails, nothing is left running.
func (srv *Server) Start(ctx context.Context) (err error) {
	srv.mu.Lock()
	if srv.state != serverNew {
		srv.mu.Unlock()
		return errors.New("engine: the server has been started before")
	}
	srv.state = serverStarting
	srv.mu.Unlock()
	defer close(srv.started)
	if err := srv.fitFiles(); err != nil {
		return srv.unstart(err)
	}
	srv.table.open(srv.cfg.MaxConns)
	if srv.ownPool {
		if err := srv.pool.Start(ctx); err != nil {
			return srv.unstart(err)
		}
	} else if !srv.pool.Running() {
		return srv.unstart(errors.New("engine: Config.Pool is not running: start it first"))
	}
	if err := srv.plat.start(srv); err != nil {
		return srv.unstart(err)
	}
	srv.bg.Add(2)
	go srv.rearmer()
	go srv.ticker()
	if err := srv.listen(ctx); err != nil {
		return srv.unstart(err)
	}
	srv.mu.Lock()
	err = srv.failure
	if err == nil {
		srv.state = serverRunning
	}
	srv.mu.Unlock()
	if err != nil {
		return srv.unstart(err)
	}
	return nil
}

// unstart undoes a Start that failed.
func (srv *Server) unstart(err error) error {
	srv.mu.Lock()
	srv.state = serverStopping
	srv.mu.Unlock()
	srv.stopReactors()
	srv.reap()
	close(srv.quit)
	srv.plat.stop()
	srv.bg.Wait()
	if srv.ownPool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.pool.Stop(ctx)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.state = serverStopped
	close(srv.done)
	return err
}

// ownFiles is how many descriptors are kept for what is no connection.
const ownFiles = 32

// reserve is how many descriptors are kept for what is no session.
func (srv *Server) reserve() int { return ownFiles + srv.cfg.MaxRefused }

// fitFiles fits MaxConns to the open-file limit.
func (srv *Server) fitFiles() error {
	limit := openFileLimit()
	backlog := 0
	if srv.cfg.Accept == AcceptSingle || srv.hasUnix() {
		backlog = listenBacklog() // the single acceptor takes a whole backlog before a loop can refuse
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

func (srv *Server) hasUnix() bool {
	for _, a := range srv.cfg.Addrs {
		if p, _ := parseAddr(a); p.unix() {
			return true
		}
	}
	return false
}
