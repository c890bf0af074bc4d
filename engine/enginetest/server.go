package enginetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"millrace/engine"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/simnet"
)

// Server is a real engine.Server in a World, on a simulated network and simulated workers. Its Stop
// and Drain wait for the simulation to continue; call them in World.Go.
type Server struct {
	*engine.Server
	w       *World
	cfg     engine.Config
	net     *simnet.Net
	look    func() // for blocked loops
	runners []*loopRunners
	check   checker
	pool    *sched.Pool // its own; nil: it has none
	paused  bool
	stopped bool
	stuck   map[engine.ID]bool // sessions that Stop has named: their callbacks had not returned
}

// Server makes a server and starts it. Zero fields of cfg mean the engine's defaults, except: Addrs
// is one tcp:// address, Loops 2, Workers 4, MaxConns 256. Stalls are not reported, since only
// explicit waiting takes time; log lines go to the trace. The callbacks of h are checked: see the
// package comment.
func (w *World) Server(cfg engine.Config, h engine.Handler) *Server {
	s, err := w.NewServer(cfg, h)
	w.Check(err)
	w.Check(s.Start(w.t.Context()))
	return s
}

// Pause suspends the server, as a process can be suspended: none of its loops and none of its own
// workers run until it is resumed. Clients, the network and time continue.
func (s *Server) Pause(pause bool) { s.paused = pause }

// NewServer is Server without the start.
func (w *World) NewServer(cfg engine.Config, h engine.Handler) (*Server, error) {
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = []string{"tcp://10.0.0.1:7000"}
	}
	or(&cfg.Loops, 2)
	or(&cfg.Workers, 4)
	or(&cfg.MaxConns, 256)
	or(&cfg.StallAfter, engine.Off)
	or(&cfg.Logger, w.Logger())
	s := &Server{w: w, cfg: cfg}
	s.check.init(s)
	srv, err := engine.NewOn(onMachine{w, s}, cfg, s.check.wrap(h))
	if err != nil {
		return nil, err
	}
	s.Server = srv
	w.servers = append(w.servers, s)
	return s, nil
}

func (s *Server) runnersOf(loop int) *loopRunners {
	for len(s.runners) <= loop {
		s.runners = append(s.runners, &loopRunners{own: s.w.newRunner(), standIn: s.w.newRunner()})
	}
	return s.runners[loop]
}

// Defer makes fn run at the end of the run, while time still passes, when what clients have sent is
// handled and before the servers stop; the last one first. It also runs after a failure.
func (w *World) Defer(fn func()) { w.atEnd = append(w.atEnd, fn) }

// Go runs fn, which may wait for events of the simulation, on a goroutine of its own, and lets time
// pass until it has returned. Any number of simulated seconds may pass.
func (w *World) Go(fn func()) {
	done := false
	finished := make(chan struct{})
	go func() {
		defer w.wake()
		defer close(finished)
		fn()
	}()
	w.Until(func() bool {
		select {
		case <-finished:
			done = true
		default:
		}
		return done
	})
}

// StopWithin stops the server with a drain timeout of d, and returns Stop's error.
func (s *Server) StopWithin(d time.Duration) (err error) {
	s.stopped = true
	s.w.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		err = s.Server.Stop(ctx)
	})
	var loss *engine.LossError
	if errors.As(err, &loss) {
		s.stuck = map[engine.ID]bool{}
		for _, x := range loss.Stuck {
			s.stuck[x.Session] = true
		}
	}
	return err
}

// end shuts the run down: pending work is finished, then the servers stop, and nothing may be left.
func (w *World) end() {
	for _, c := range w.clients {
		c.Stall(false)
	}
	for _, s := range w.servers {
		s.paused = false
	}
	w.UntilWithin(w.opt.Patience, w.calm)
	for _, s := range w.servers {
		s.checkDelivered()
	}
	for _, fn := range slices.Backward(w.atEnd) {
		w.Go(fn)
	}
	for _, s := range w.servers {
		if s.stopped {
			continue
		}
		var loss *engine.LossError
		err := s.StopWithin(min(w.opt.Patience/2, lastDrain))
		switch isLoss := errors.As(err, &loss); {
		case isLoss && len(loss.Stuck) > 0:
			w.Fatalf("Stop: %v", err)
		case err != nil && !(isLoss && s.check.disturbed()):
			w.Fatalf("Stop, although no client was disturbed: %v", err)
		}
	}
	w.stopPools()
	for _, s := range w.servers {
		s.checkEnd()
	}
}

// lastDrain is how long a server may drain at the end of a run. More is not needed: by then the
// engine closes peers that have vanished.
const lastDrain = 20 * time.Second

// calm reports whether every client that can has got the answers to its requests.
func (w *World) calm() bool {
	for _, s := range w.servers {
		if !s.check.quiet() {
			return false
		}
	}
	for _, s := range w.servers {
		if _, some := s.net.Next(); some || len(s.net.Steps(nil)) > 0 {
			return false
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events) == 0
}

// stopPools stops the pools that belong to no server; the others have ended.
func (w *World) stopPools() {
	for _, p := range w.pools {
		w.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), w.opt.Patience/2)
			defer cancel()
			if err := p.Stop(ctx); err != nil {
				w.Errorf("a pool does not stop: %v", err)
			}
		})
	}
}

// tearDown shuts down a failed run as far as possible, without checks.
func (w *World) tearDown() {
	w.ending = true
	for _, s := range w.servers {
		s.paused = false
	}
	w.mu.Lock()
	w.events = nil
	w.mu.Unlock()
	defer func() { _ = recover() }()
	for _, fn := range slices.Backward(w.atEnd) {
		w.goWithin(time.Minute, fn)
	}
	for _, s := range w.servers {
		if !s.stopped {
			w.goWithin(time.Minute, func() {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				_ = s.Server.Stop(ctx)
			})
		}
	}
	for _, p := range w.pools {
		w.goWithin(time.Minute, func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = p.Stop(ctx)
		})
	}
	w.opt.MaxSteps += 1 << 20
	w.UntilWithin(time.Minute, func() bool { return false })
}

func (w *World) goWithin(d time.Duration, fn func()) {
	done := make(chan struct{})
	go func() {
		defer w.wake()
		defer close(done)
		fn()
	}()
	w.UntilWithin(d, func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

// close ends the simulation's own goroutines.
func (w *World) close() {
	w.timer.Stop()
	for _, c := range w.clients {
		c.layers.end()
	}
	for _, r := range w.runners {
		close(r.todo)
	}
}
