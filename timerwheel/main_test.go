package timerwheel

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inline runs what it is given on the goroutine that submits it.
type inline struct{}

func (inline) Submit(fn func()) error { fn(); return nil }

// strand runs what it is given one after the other, on a goroutine that lives
// while there is work.
type strand struct {
	mu    sync.Mutex
	queue []func()
	busy  bool
	err   error // what Submit returns instead
}

func (s *strand) Submit(fn func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.queue = append(s.queue, fn)
	if !s.busy {
		s.busy = true
		go s.run()
	}
	return nil
}

func (s *strand) run() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.busy = false
			s.mu.Unlock()
			return
		}
		fn := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		fn()
	}
}

func (s *strand) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

// workers is a pool: one queue, n goroutines.
type workers struct {
	mu    sync.Mutex
	cond  *sync.Cond
	queue []func()
	head  int
	ended bool
	wg    sync.WaitGroup
}

func newWorkers(tb testing.TB, n int) *workers {
	w := &workers{}
	w.cond = sync.NewCond(&w.mu)
	for range n {
		w.wg.Go(w.run)
	}
	tb.Cleanup(func() {
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		w.cond.Broadcast()
		w.wg.Wait()
	})
	return w
}

func (w *workers) Submit(fn func()) error {
	w.mu.Lock()
	w.queue = append(w.queue, fn)
	w.mu.Unlock()
	w.cond.Signal()
	return nil
}

func (w *workers) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for w.head < len(w.queue) {
			fn := w.queue[w.head]
			w.queue[w.head] = nil
			if w.head++; w.head == len(w.queue) {
				w.queue, w.head = w.queue[:0], 0
			}
			w.mu.Unlock()
			fn()
			w.mu.Lock()
		}
		if w.ended {
			return
		}
		w.cond.Wait()
	}
}

// started returns a service that runs until the test ends.
func started(tb testing.TB, cfg Config, sub Submitter) *Service {
	tb.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s, err := New(cfg, sub)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stopped(tb, s) })
	return s
}

func stopped(tb testing.TB, s *Service) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		tb.Errorf("Stop: got %v, want nil", err)
	}
}

// must fails the test when an operation that has to work does not.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
