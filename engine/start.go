package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/engine/internal/gnetio"
)

// Start binds the addresses and starts the loops. When it returns nil, connections are
// served. A server starts once. An address in use is an error that is
// syscall.EADDRINUSE and names the address. When it fails, nothing is left running; when
// ctx has ended already, nothing happens and Start may be called again.
func (srv *Server) Start(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("engine: start: %w", err)
	}
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
		return srv.unstart(fmt.Errorf("engine: Config.Pool: %w", ErrNotRunning))
	}
	srv.bg.Add(3)
	go srv.rearmer()
	go srv.ticker()
	go srv.watchLoops()
	srv.serving.Store(true)
	if err := srv.net.Start(ctx); err != nil {
		return srv.unstart(netError(err))
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
	srv.serving.Store(false)
	close(srv.quit)
	srv.endLoops()
	srv.bg.Wait()
	srv.stalls.Close()
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
	limit := gnetio.OpenFileLimit()
	backlog := 0
	if srv.cfg.Accept == AcceptSingle || srv.hasUnix() {
		backlog = gnetio.Backlog() // the single acceptor takes a whole backlog before a loop can refuse
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
	srv.shedAt(gnetio.OpenFileLimit())
	srv.net.Guard()
}

func (srv *Server) hasUnix() bool {
	for _, a := range srv.cfg.Addrs {
		if p, _ := gnetio.ParseAddr(a); p.Unix() {
			return true
		}
	}
	return false
}
