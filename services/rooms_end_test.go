package services_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// A room that fails loses what waits in it, and says so to each; the next message makes
// another.
func TestARoomThatFails(t *testing.T) {
	sick := errors.New("sick")
	for _, tt := range []struct {
		name string
		make func() error // New's part
		bad  func()       // the first message's
		want error
		why  engine.Reason
	}{
		{"New returns an error", func() error { return sick }, nil, sick, engine.ReasonRefused},
		{"New panics", func() error { panic("of the test") }, nil, services.ErrRoomFailed, engine.ReasonPanic},
		{"New ends its goroutine", func() error { runtime.Goexit(); return nil }, nil, services.ErrRoomFailed, engine.ReasonPanic},
		{"a message panics", nil, func() { panic("of the test") }, services.ErrRoomFailed, engine.ReasonPanic},
		{"a message ends its goroutine", nil, runtime.Goexit, services.ErrRoomFailed, engine.ReasonPanic},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out syncBuffer
			var news, submitted, closes atomic.Int32
			gate := make(chan bool)
			rs := open(t, config{Logger: slog.New(slog.NewTextHandler(&out, nil)), New: func(r *room) (*[]string, error) {
				if news.Add(1) > 1 {
					return new([]string), nil
				}
				<-gate
				must(t, r.Submit(func() { submitted.Add(1) }))
				if tt.make != nil {
					if err := tt.make(); err != nil {
						return nil, err
					}
				}
				return new([]string), nil
			}, OnClose: func(_ *room, why engine.Reason) {
				if closes.Add(1); why == engine.ReasonPanic {
					panic("OnClose panics too")
				}
			}})
			lost := make(chan error, 10)
			tell := func(err error) { lost <- err }
			must(t, rs.PostOr("tea", func(*room) { tt.bad() }, tell))
			for range 3 {
				must(t, rs.PostOr("tea", func(*room) { t.Error("ran in a room that has failed") }, tell))
			}
			must(t, rs.Post("tea", func(*room) { t.Error("ran in a room that has failed") }))
			close(gate)
			want := 3
			if tt.bad == nil {
				want = 4
			}
			for range want {
				if err := receive(t, lost); !errors.Is(err, tt.want) {
					t.Errorf("lost with %v, want %v", err, tt.want)
				}
			}
			eventually(t, "its end", func() bool { return rs.Stats().Ended[tt.why] == 1 })
			posted(t, rs, "tea", func(r *room) {
				if *r.State != nil || news.Load() != 2 {
					t.Errorf("the next room has %v", *r.State)
				}
			})
			st := rs.Stats()
			if st.Lost != uint64(want)+1 || len(lost) != 0 || submitted.Load() != 1 {
				t.Errorf("%+v, %d told more; %d functions ran", st, len(lost), submitted.Load())
			}
			if (closes.Load() > 0) != (tt.make == nil) {
				t.Errorf("OnClose was called %d times", closes.Load())
			}
			if text := out.String(); !strings.Contains(text, fmt.Sprintf("room=tea messages=%d", want+1)) {
				t.Errorf("the log says %q", text)
			}
		})
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// What comes back late to a room that has ended reaches nobody, least of all the next of its
// key.
func TestLateCompletionsReachNoOtherRoom(t *testing.T) {
	rs := open(t, config{Idle: engine.Off})
	var old *room
	var ctx context.Context
	posted(t, rs, "tea", func(r *room) {
		old, ctx = r, r.Context()
		must(t, r.SetTimer(7, time.Millisecond, 0, func(timerwheel.Firing) {
			if r.Closed() {
				return // what was out when it closed
			}
			*r.State = append(*r.State, "tick")
		}))
	})
	must(t, old.Close())
	if err := old.Close(); !errors.Is(err, engine.ErrClosed) || rs.Close("tea") || rs.Close("none") {
		t.Errorf("closed twice: %v", err)
	}
	posted(t, rs, "tea", func(r *room) {
		if r == old || r.Life() <= old.Life() || ctx.Err() == nil || len(*r.State) != 0 {
			t.Errorf("room %d behind %d, with %q", r.Life(), old.Life(), *r.State)
		}
	})
	if err := old.Submit(func() { t.Error("ran") }); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a late function: %v", err)
	}
	if err := old.Post(func(*room) { t.Error("ran") }); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a late message: %v", err)
	}
	gone := make(chan bool, 1)
	services.Deliver(old, func() { t.Error("delivered") }, func() { gone <- true })
	receive(t, gone)
}
