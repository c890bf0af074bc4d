package cachetest

import (
	"fmt"
	"sync"
	"time"

	"millrace/services"
)

// events records what a watcher saw.
type events struct {
	mu   sync.Mutex
	seen []services.Event
}

func (e *events) add(ev services.Event) {
	e.mu.Lock()
	e.seen = append(e.seen, ev)
	e.mu.Unlock()
}

func (e *events) last() (services.Event, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.seen) == 0 {
		return services.Event{}, 0
	}
	return e.seen[len(e.seen)-1], len(e.seen)
}

func (s *suite) watchKey(key string, on services.Submitter) (*events, func()) {
	s.Helper()
	var ev events
	cancel, err := s.c.Watch(key, on, ev.add)
	if err != nil {
		s.Fatal(err)
	}
	return &ev, cancel
}

func (s *suite) watch() {
	k, other := s.key("a"), s.key("b")
	s.set(k, "before", 0)
	ev, cancel := s.watchKey(k, &full{left: 2})
	defer cancel()
	s.set(other, "x", 0)
	var last uint64
	for i := range 200 {
		last = s.set(k, fmt.Sprint(i), 0)
	}
	s.eventually("the last change is seen", func() bool {
		e, _ := ev.last()
		return e.Entry.Revision == last && string(e.Entry.Value) == "199"
	})
	rev := uint64(0)
	for _, e := range ev.seen {
		if e.Key != k || !e.Present || e.Entry.Revision <= rev {
			s.Fatalf("event %+v after revision %d", e, rev)
		}
		rev = e.Entry.Revision
	}
	if string(ev.seen[0].Entry.Value) == "before" {
		s.Error("saw a change from before the watch")
	}
	if _, err := s.c.Delete(background, k); err != nil {
		s.Fatal(err)
	}
	s.eventually("the delete is seen", func() bool { e, _ := ev.last(); return !e.Present })
}

func (s *suite) watchEnds() {
	k := s.key("a")
	ev, cancel := s.watchKey(k, nil)
	_, _ = s.watchKey(k, closed{}) // must not hold anything up
	s.set(k, "v", 100*time.Millisecond)
	s.eventually("expiry is seen", func() bool { e, n := ev.last(); return n > 0 && !e.Present }) // the set itself may be skipped
	cancel()
	cancel()
	_, n := ev.last()
	s.set(k, "w", 0)
	other, done := s.watchKey(k, nil)
	defer done()
	s.set(k, "x", 0)
	s.eventually("a later watcher sees it", func() bool { _, n := other.last(); return n > 0 })
	if e, m := ev.last(); m != n {
		s.Errorf("after cancel: got %+v", e)
	}
}
