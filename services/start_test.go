package services_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/services"
)

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after a while: %s", what)
		}
	}
}

// half leaves something running when its Start fails.
type half struct {
	running atomic.Bool
	slow    bool
}

func (h *half) Start(ctx context.Context) error {
	if h.slow {
		<-ctx.Done()
		time.Sleep(300 * time.Millisecond) // longer than it is waited for
	}
	h.running.Store(true)
	if h.slow {
		return nil
	}
	return fmt.Errorf("half of it works")
}
func (h *half) Stop(context.Context) error { h.running.Store(false); return nil }
func (h *half) Running() bool              { return h.running.Load() }

func TestAFailedStartLeavesNothingRunning(t *testing.T) {
	for _, slow := range []bool{false, true} {
		h := &half{slow: slow}
		m := manage(t, services.Config{StartTimeout: 2 * time.Second, Services: []services.Spec{{Name: "half", Service: h}}})
		ctx, cancel := context.WithTimeout(background, 500*time.Millisecond)
		if err := m.Start(ctx); err == nil {
			t.Error("it started")
		}
		cancel()
		if slow {
			eventually(t, "it started late", func() bool { return !m.Async().Running() })
			time.Sleep(500 * time.Millisecond) // nothing tells that Start is through
		}
		eventually(t, "it is stopped", func() bool { return !h.Running() })
	}
}
