package servicestest

import (
	"context"
	"fmt"
	"time"

	"millrace/engine"
	"millrace/engine/enginetest"
	"millrace/services"
)

// Services is a manager in a simulation.
type Services struct {
	*services.Manager
	Server *enginetest.Server // nil if the manager has none
	w      *enginetest.World
}

// New creates a manager in the simulation, and starts nothing. The defaults of its pool and its
// server are those of World.Pool and World.Server. If it has been started, it is stopped at the end
// of the run, which then checks that nothing is left.
func New(w *enginetest.World, cfg services.Config) *Services {
	if cfg.Logger == nil {
		cfg.Logger = w.Logger()
	}
	if cfg.Timers.Shards == 0 {
		cfg.Timers.Shards = 1
	}
	s := &Services{w: w}
	var specs []services.Spec
	for _, spec := range cfg.Services {
		specs = append(specs, s.pause(len(specs)), spec)
	}
	cfg.Services = append(specs, s.pause(len(specs)))
	m, err := services.NewOn(onWorld{s}, cfg)
	w.Check(err)
	s.Manager = m
	return s
}

// pause is a service that takes a moment to start. It separates the timers of the services started
// before and after it: two services with timers at the same nanosecond would run concurrently, and
// the seed would not determine which came first.
func (s *Services) pause(i int) services.Spec {
	return services.Spec{Name: fmt.Sprint("pause ", i), Service: &pause{takes: s.w.Between(10*time.Microsecond, 90*time.Microsecond) + 7}}
}

type pause struct {
	running
	takes time.Duration
}

func (p *pause) Start(ctx context.Context) error {
	time.Sleep(p.takes)
	return p.running.Start(ctx)
}

// onWorld is the Machine of a World.
type onWorld struct{ s *Services }

func (on onWorld) NewPool(cfg engine.PoolConfig) (*engine.Pool, error) { return on.s.w.NewPool(cfg) }

func (on onWorld) NewServer(cfg engine.Config, h engine.Handler) (*engine.Server, error) {
	srv, err := on.s.w.NewServer(cfg, h)
	if err != nil {
		return nil, err
	}
	on.s.Server = srv
	return srv.Server, nil
}

// stopMost is the longest time that a manager may take to stop, in simulated time.
const stopMost = time.Minute

// Start starts everything, while simulated time passes; the run fails if Start fails.
func (s *Services) Start() {
	var err error
	s.w.Go(func() { err = s.Manager.Start(context.Background()) })
	s.w.Check(err)
	s.w.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopMost)
		defer cancel()
		if err := s.Manager.Stop(ctx); err != nil {
			s.w.Errorf("the manager does not stop: %v", err)
		}
		s.checkEnd()
	})
}

// checkEnd checks that a stopped manager has nothing left.
func (s *Services) checkEnd() {
	if n := s.Controller().Stats().Deferred; n != 0 {
		s.w.Errorf("the manager has stopped with %d pending answers", n)
	}
	if n := s.Timers().Len(); n != 0 {
		s.w.Errorf("the manager has stopped with %d timers", n)
	}
	if m, ok := s.Cache().(*services.Memory); ok {
		if st := m.Stats(); st.Entries != 0 || st.Locks != 0 || st.Waits != 0 {
			s.w.Errorf("the manager has stopped; its cache has %d entries, %d locks and %d waits for one", st.Entries, st.Locks, st.Waits)
		}
	}
	if n := s.Timers().Stats().Panics; n != 0 {
		s.w.Errorf("%d callbacks of timers panicked", n)
	}
}
