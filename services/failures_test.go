package services_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
)

// logText is a log that several goroutines write.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Each request and delay event that fails is answered and counted. The log has at most one line a
// second for each handle, with the number of failures that were not logged.
func TestFailuresAreALineASecond(t *testing.T) {
	var log logText
	broken := errors.New("it is broken")
	later := make(chan struct{}, 1000)
	r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) {
		cc.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}, func(c *services.Controller) {
		must(t, services.Register(c, services.Handle(1, 1), services.Stages[pair, total]{Handle: func(*services.Context, *pair, *total) error { return broken }}))
		must(t, c.Raw(services.Handle(1, 2), func(*engine.Session, codec.Packet) error { return broken }))
		must(t, services.Register(c, services.Handle(1, 3), services.Stages[pair, services.None]{Handle: func(ctx *services.Context, p *pair, _ *services.None) error {
			_, err := services.After(ctx, 0.001, services.Handle(1, 4), *p)
			return err
		}}))
		must(t, services.Register(c, services.Handle(1, 4), services.Stages[pair, services.None]{Handle: func(*services.Context, *pair, *services.None) error {
			later <- struct{}{}
			return broken
		}}, services.Internal()))
	})
	began := time.Now()
	c := r.dial(nil)
	const n = 200
	for range n {
		for sub := uint16(1); sub <= 3; sub++ {
			_, err := c.Do(background, client.Handle(1, sub), []byte(`{"a":1,"b":2}`))
			var e *client.Error
			if sub < 3 && (!errors.As(err, &e) || e.Code != uint16(engine.CodeInternal)) || sub == 3 && err != nil {
				t.Fatalf("1/%d: got %v", sub, err)
			}
		}
	}
	for range n {
		<-later
	}
	if got := r.c.Stats().Internal; got != 2*n {
		t.Errorf("%d failures counted, want %d", got, 2*n)
	}
	most := int(time.Since(began).Seconds()) + 1
	for handle, what := range map[string]string{"1/1": "request failed", "1/2": "request failed", "1/4": "delay event failed"} {
		lines := 0
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, what) && strings.Contains(line, "handle="+handle) {
				lines++
			}
		}
		if lines < 1 || lines > most {
			t.Errorf("%s: %d lines, want 1 to %d:\n%.1000s", handle, lines, most, log.String())
		}
	}
}
