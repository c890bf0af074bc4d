package engine

import (
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine/internal/strand"
)

// submit tries again while the strand is full.
func submit(t testing.TB, s *Strand, fn func()) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Microsecond) {
		err := s.Submit(fn)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrBusy) || time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}

// awaited fails the test when done is not closed within a minute.
func awaited(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("waited a minute for %s", what)
	}
}

// Functions of a strand never run at the same time, and those of one goroutine run in its
// order; what they write needs no lock. Strands take turns on few workers.
func TestStrandRunsOneAtATimeAndInOrder(t *testing.T) {
	const strandsN, senders, each = 5, 4, 500
	p := runPool(t, PoolConfig{Workers: 3, MaxTasks: 64})
	var all [strandsN]struct {
		s      *Strand
		inside atomic.Int32
		heard  [senders][]int // without a lock
	}
	for i := range all {
		all[i].s = p.Strand()
	}
	var left sync.WaitGroup
	left.Add(strandsN * senders * each)
	for from := range senders {
		go func() {
			for n := range each {
				for i := range all {
					a := &all[i]
					submit(t, a.s, func() {
						if a.inside.Add(1) != 1 {
							t.Error("two functions of a strand at once")
						}
						a.heard[from] = append(a.heard[from], n)
						a.inside.Add(-1)
						left.Done()
					})
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { left.Wait(); close(done) }()
	awaited(t, "every function", done)
	for i := range all {
		for from, got := range all[i].heard {
			if len(got) != each || !slices.IsSorted(got) {
				t.Errorf("strand %d ran %d of sender %d, sorted: %v", i, len(got), from, slices.IsSorted(got))
			}
		}
	}
	if st := p.Stats(); st.StrandMemory != 0 {
		t.Errorf("%d bytes still counted", st.StrandMemory)
	}
}

// Messages and functions share one order; a message that panics closes the strand.
func TestStrandHandlesMessages(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2})
	if err := p.Strand().Post(1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without OnMessage: %v", err)
	}
	var got []any
	closed := make(chan Reason, 1)
	s := p.StrandWith(StrandConfig{
		OnMessage: func(msg any) { got = append(got, msg.(int)) },
		OnClose:   func(why Reason) { closed <- why },
	})
	for i := range 100 {
		if err := s.Post(2 * i); err != nil {
			t.Fatal(err)
		}
		submit(t, s, func() { got = append(got, 2*i+1) })
	}
	if err := s.Post("no number"); err != nil {
		t.Fatal(err)
	}
	if why := <-closed; why != ReasonPanic || len(got) != 200 {
		t.Errorf("closed for %v behind %d of 200", why, len(got))
	}
	for i, v := range got {
		if v != i {
			t.Fatalf("%v came as number %d", v, i)
		}
	}
	if err := s.Post(1); !errors.Is(err, ErrClosed) {
		t.Errorf("then: %v", err)
	}
}

// A panic, and runtime.Goexit, end their strand: what it had accepted runs, then OnClose,
// and nothing is taken any more. The pool goes on, and says where it was.
func TestStrandContainsPanics(t *testing.T) {
	for _, tt := range []struct {
		name string
		bad  func()
	}{
		{"panic", func() { panic("of the test") }},
		{"runtime error", func() { _ = make([]int, 1)[runtime.NumCPU()] }},
		{"Goexit", runtime.Goexit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logText
			p := runPool(t, PoolConfig{Workers: 2, Logger: textLog(&log)})
			closed := make(chan Reason, 2)
			s := p.StrandWith(StrandConfig{Name: "kitchen", OnClose: func(why Reason) { closed <- why }})
			var ran atomic.Int32
			gate := make(chan struct{})
			submit(t, s, func() { <-gate })
			submit(t, s, tt.bad)
			for range 200 { // more than a turn
				submit(t, s, func() { ran.Add(1) })
			}
			close(gate)
			select {
			case why := <-closed:
				if n := ran.Load(); why != ReasonPanic || n != 200 {
					t.Errorf("closed for %v, %d of 200 ran before", why, n)
				}
			case <-time.After(time.Minute):
				t.Fatal("it was not closed")
			}
			if err := s.Submit(func() {}); !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
				t.Errorf("then: %v", err)
			}
			other := make(chan struct{})
			submit(t, p.Strand(), func() { close(other) })
			awaited(t, "another strand", other)
			if st := p.Stats(); st.Panics != 1 || st.StrandStale != 1 {
				t.Errorf("%+v", st)
			}
			if text := log.String(); !strings.Contains(text, "session=kitchen") || !strings.Contains(text, "Strand.Submit") {
				t.Errorf("the log says %q", text)
			}
		})
	}
}

// A panic in OnClose ends the strand all the same, and the next one begins.
func TestOnCloseMayPanic(t *testing.T) {
	for name, bad := range map[string]func(){"panic": func() { panic("of the test") }, "Goexit": runtime.Goexit} {
		p := runPool(t, PoolConfig{Workers: 1})
		var called atomic.Int32
		s := p.StrandWith(StrandConfig{OnClose: func(Reason) { called.Add(1); bad() }})
		next := make(chan struct{})
		submit(t, s.Next(StrandConfig{}), func() { close(next) })
		s.Close()
		awaited(t, name+": the next one", next)
		if n := called.Load(); n != 1 || p.Stats().Panics != 1 {
			t.Errorf("%s: OnClose was called %d times, %d panics counted", name, n, p.Stats().Panics)
		}
	}
}

// Functions that block hold back their own strands only, however many there are.
func TestABlockedStrandStallsNobody(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2, Spare: 40})
	gate := make(chan struct{})
	for range 30 {
		submit(t, p.Strand(), func() { <-gate })
	}
	done := make(chan struct{})
	submit(t, p.Strand(), func() { close(done) })
	awaited(t, "a strand beside blocked ones", done)
	close(gate)
}

// What waits is bounded in each strand and in all together, is counted, and is given back.
func TestStrandLimits(t *testing.T) {
	const fits = 40
	p := runPool(t, PoolConfig{Workers: 1, Spare: Off, MaxTasks: 10, StrandMemory: fits * strand.TaskCost})
	gate := make(chan struct{})
	var ran, taken atomic.Int32
	submit(t, p.Strand(), func() { <-gate })
	give := func(s *Strand) error {
		err := s.Submit(func() { ran.Add(1) })
		if err == nil {
			taken.Add(1)
		}
		return err
	}
	s := p.Strand()
	for range 10 {
		if err := give(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := give(s); !errors.Is(err, ErrTasksFull) || !errors.Is(err, ErrBusy) || s.Len() != 10 {
		t.Errorf("the eleventh: %v, %d wait", err, s.Len())
	}
	one := p.StrandWith(StrandConfig{MaxTasks: 1})
	if first, second := give(one), give(one); first != nil || !errors.Is(second, ErrTasksFull) {
		t.Errorf("a limit of its own: %v, %v", first, second)
	}
	var err error
	for range fits {
		if err = give(p.Strand()); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrMemory) || !errors.Is(err, ErrBusy) {
		t.Errorf("many strands: %v", err)
	}
	st := p.Stats()
	if st.StrandRefused != 3 || st.StrandMemory != fits*strand.TaskCost {
		t.Errorf("%+v", st)
	}
	close(gate)
	waitFor(t, "what was taken", func() bool { return ran.Load() == taken.Load() })
	waitFor(t, "the memory", func() bool { return p.Stats().StrandMemory == 0 })
	if err := give(s); err != nil {
		t.Error(err)
	}
	for _, bad := range []PoolConfig{{MaxTasks: -1}, {StrandMemory: -1}} {
		if _, err := NewPool(bad); err == nil || !strings.Contains(err.Error(), "at least 1") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// What holds a strand up is reported by its name.
func TestStallNamesTheStrand(t *testing.T) {
	stalls := make(chan Stall, 16)
	p := runPool(t, PoolConfig{Workers: 1, StallAfter: 20 * time.Millisecond, OnStall: func(s Stall) { stalls <- s }})
	gate := make(chan struct{})
	s := p.StrandWith(StrandConfig{Name: "room tea"})
	submit(t, s, func() { <-gate })
	select {
	case st := <-stalls:
		if st.Session != "room tea" || st.Where != "worker" {
			t.Errorf("got %+v", st)
		}
	case <-time.After(time.Minute):
		t.Error("no report")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Stop(ended); err == nil || !strings.Contains(err.Error(), "strand room tea") {
		t.Errorf("Stop says %v", err)
	}
	close(gate)
}
