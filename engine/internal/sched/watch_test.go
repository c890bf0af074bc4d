package sched

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const tenth = 100 * time.Millisecond

// seen collects what a hook is given.
type seen struct {
	mu   sync.Mutex
	list []Stall
	when []time.Time
}

func (s *seen) hook(st Stall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, st)
	s.when = append(s.when, time.Now())
}

func (s *seen) all() []Stall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Stall(nil), s.list...)
}

func lingerHere(d time.Duration) { time.Sleep(d) }

// A function that takes longer than StallAfter is reported once, while it lasts, with
// the stack of its own goroutine; one that takes less is not.
func TestStallIsReportedOnceWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		var got seen
		p := start(t, Config{Workers: 2, StallAfter: tenth, OnStall: got.hook, Logger: log.logger()})
		defer stop(t, p)
		began := time.Now()
		submit(t, p, func() { time.Sleep(90 * time.Millisecond) })
		submit(t, p, func() { lingerHere(5 * time.Second) })
		time.Sleep(6 * time.Second)
		list := got.all()
		if len(list) != 1 || p.Stats().Stalls != 1 {
			t.Fatalf("%d reports, %d counted, want 1", len(list), p.Stats().Stalls)
		}
		st := list[0]
		if st.Where != "worker" || st.Session != "" || st.Main != 0 || st.Sub != 0 {
			t.Errorf("got %+v", st)
		}
		if late := got.when[0].Sub(began); late < tenth || late > tenth+2*BlockedAfter || st.For < tenth || st.For > tenth+2*BlockedAfter {
			t.Errorf("reported after %v, with For %v", late, st.For)
		}
		if !strings.HasPrefix(st.Stack, "goroutine ") || !strings.Contains(st.Stack, "lingerHere") || strings.Contains(st.Stack, "\n\ngoroutine") {
			t.Errorf("stack %s", st.Stack)
		}
		if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "lingerHere:") {
			t.Errorf("logged %s", text)
		}
	})
}

// A task's report names the session and the packet; a turn of many callbacks is none,
// each of its callbacks that stalls is one.
func TestStallIsOneCallbackNotATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		p := start(t, Config{Workers: 1, StallAfter: tenth, OnStall: got.hook})
		defer stop(t, p)
		j := newJob(func(j *job) {
			for i := range uint32(40) {
				j.sub.Store(i)
				d := 30 * time.Millisecond
				if i == 20 || i == 30 {
					d = 300 * time.Millisecond
				}
				time.Sleep(d)
				j.step.Add(1)
			}
		})
		p.Push(&j.Task, j.Task.Home())
		time.Sleep(3 * time.Second)
		list := got.all()
		if len(list) != 2 {
			t.Fatalf("%d reports, want 2: %v", len(list), list)
		}
		for i, st := range list {
			if st.Session != "7.1" || st.Main != 1 || int(st.Sub) != 20+10*i || st.For > 120*time.Millisecond || st.Stack == "" {
				t.Errorf("report %d: %+v", i, st)
			}
		}
	})
}

// The log has one line a second for each place, which says how many it held back; the
// hook gets all.
func TestStallLogHasOneLineASecondForEachPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		var got seen
		p := start(t, Config{Workers: 8, StallAfter: tenth, OnStall: got.hook, Logger: log.logger()})
		defer stop(t, p)
		for range 5 {
			submit(t, p, func() { lingerHere(200 * time.Millisecond) })
		}
		submit(t, p, func() { time.Sleep(200 * time.Millisecond) }) // another place
		time.Sleep(2 * time.Second)
		if n := strings.Count(log.String(), "level=WARN"); n != 2 || len(got.all()) != 6 {
			t.Errorf("%d lines and %d reports, want 2 and 6", n, len(got.all()))
		}
		submit(t, p, func() { lingerHere(200 * time.Millisecond) })
		time.Sleep(time.Second)
		if n := strings.Count(log.String(), `omitted=4`); n != 1 {
			t.Errorf("no line says that 4 were held back: %s", log.String())
		}
	})
}

// A hook that blocks, panics or ends its goroutine keeps nothing else up: spare workers
// come, and later stalls are reported.
func TestHookCanDoNoHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		var got seen
		gate := make(chan bool)
		n := 0
		p := start(t, Config{Workers: 1, Spare: 8, StallAfter: tenth, Logger: log.logger(), OnStall: func(st Stall) {
			got.hook(st)
			switch n++; n {
			case 1:
				<-gate
			case 2:
				panic("in the hook")
			case 3:
				runtime.Goexit()
			}
		}})
		defer stop(t, p)
		for range 4 {
			submit(t, p, func() { lingerHere(time.Second) })
		}
		time.Sleep(2 * time.Second)
		ran := false
		submit(t, p, func() { ran = true })
		synctest.Wait()
		if len(got.all()) != 1 || !ran || p.Stats().Stalls != 4 {
			t.Errorf("%d reports, %d counted while the first blocks, want 1 and 4; another function ran: %v", len(got.all()), p.Stats().Stalls, ran)
		}
		close(gate)
		time.Sleep(time.Second)
		if n := len(got.all()); n != 4 || p.Stats().Panics != 2 || !strings.Contains(log.String(), "in the hook") {
			t.Errorf("%d reports, %d panics, want 4 and 2", n, p.Stats().Panics)
		}
		if last := got.all()[3]; last.Stack != "" {
			t.Errorf("a callback that has ended has the stack %s", last.Stack)
		}
	})
}

// A callback that has ended when its report is made gets no stack, least of all that of
// the callback behind it in the same turn.
func TestStallOfAnEndedCallbackHasNoStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		gate := make(chan bool)
		p := start(t, Config{Workers: 2, StallAfter: tenth, OnStall: func(st Stall) {
			got.hook(st)
			<-gate
		}})
		defer stop(t, p)
		submit(t, p, func() { lingerHere(time.Second) }) // its report holds the others back
		time.Sleep(BlockedAfter)
		j := newJob(func(j *job) {
			for _, d := range []time.Duration{200 * time.Millisecond, 90 * time.Millisecond} {
				time.Sleep(d)
				j.step.Add(1)
			}
		})
		p.Push(&j.Task, j.Task.Home())
		time.Sleep(250 * time.Millisecond)
		close(gate)
		synctest.Wait()
		if list := got.all(); len(list) != 2 || list[0].Stack == "" || list[1].Session != "7.1" || list[1].Stack != "" {
			t.Errorf("got %+v", list)
		}
	})
}

// A pool's end waits for the hook, and one without StallAfter reports nothing.
func TestStopWaitsForTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		p := start(t, Config{Workers: 1, StallAfter: tenth, OnStall: func(Stall) { time.Sleep(time.Second); ended = true }})
		submit(t, p, func() { time.Sleep(150 * time.Millisecond) })
		time.Sleep(200 * time.Millisecond)
		if err := p.Stop(within(t, tenth)); err == nil || !strings.Contains(err.Error(), "hook") {
			t.Errorf("got %v", err)
		}
		stop(t, p)
		if !ended {
			t.Error("the hook still runs")
		}
		q := start(t, Config{Workers: 1, OnStall: func(Stall) { t.Error("reported") }})
		submit(t, q, func() { time.Sleep(time.Second) })
		time.Sleep(2 * time.Second)
		if q.Stats().Stalls != 0 {
			t.Error("counted")
		}
		stop(t, q)
	})
}

// A Watch is fit for others than the pool: it takes who, since when and which goroutine.
func TestWatchReportsAnyGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		w := NewWatch(tenth, slog.New(slog.DiscardHandler), got.hook, NewPanics(slog.New(slog.DiscardHandler)))
		id := make(chan uint64)
		go func() { id <- GoroutineID(); lingerHere(time.Second) }()
		began, still := time.Now(), true
		g := <-id
		time.Sleep(200 * time.Millisecond)
		for range 2 {
			w.Report(Suspect{Where: "loop", Session: "3.9", Main: 4, Sub: 5, Since: began, Goroutine: g, Still: func() bool { return still }})
			synctest.Wait()
			still = false
		}
		w.Close()
		w.Report(Suspect{Still: func() bool { return false }})
		list := got.all()
		if len(list) != 2 || w.Stalls() != 3 {
			t.Fatalf("%d reports, %d counted, want 2 and 3", len(list), w.Stalls())
		}
		if st := list[0]; st.Where != "loop" || st.Session != "3.9" || st.Main != 4 || st.Sub != 5 || st.For != 200*time.Millisecond || !strings.Contains(st.Stack, "lingerHere") {
			t.Errorf("got %+v", st)
		}
		if list[1].Stack != "" {
			t.Errorf("a callback that has ended has the stack %s", list[1].Stack)
		}
		time.Sleep(time.Second) // until it has ended
		var none *Watch
		none.Report(Suspect{})
		none.Close()
		if none.Stalls() != 0 || none.After() != 0 {
			t.Error("a nil Watch has stalls")
		}
	})
}

// A report that waits, as taking stacks has cost much, does not count that as time of a callback that has
// ended meanwhile.
func TestAStallIsNotTheTimeUntilItsReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got seen
		w := NewWatch(tenth, slog.New(slog.DiscardHandler), got.hook, NewPanics(slog.New(slog.DiscardHandler)))
		w.next = time.Now().Add(10 * time.Second)
		began := time.Now()
		time.Sleep(200 * time.Millisecond)
		w.Report(Suspect{Since: began, Still: func() bool { return time.Since(began) < time.Second }})
		time.Sleep(20 * time.Second)
		w.Close()
		if list := got.all(); len(list) != 1 || list[0].For != 200*time.Millisecond {
			t.Errorf("got %+v, want one of 200ms", list)
		}
	})
}

// A stack is found among all by its goroutine's whole number, and its place is the
// innermost function that isn't the library's.
func TestStackOfAndItsPlace(t *testing.T) {
	all := "goroutine 12 [running]:\nmain.a()\n\t/x/a.go:1 +0x1\n\ngoroutine 1 [sleep, 2 minutes]:\ntime.Sleep(0x5)\n\t/go/src/runtime/time.go:363 +0xc5\nsync.(*Mutex).Lock(...)\n\t/go/src/sync/m.go:3\n" +
		"millrace/x.(*T[...]).Work(0xc0, {0x1, 0x2})\n\t/home/u/x.go:77 +0x2a\nmillrace/engine.run()\n\t/e.go:9 +0x1\n\ngoroutine 2 [select]:\ntime.Sleep(0x5)\n\t/go/src/runtime/time.go:363 +0xc5\n"
	for id, want := range map[uint64]string{12: "main.a:1", 1: "millrace/x.(*T[...]).Work:77", 2: "time.Sleep:363", 3: ""} {
		if got := StackPlace(stackOf([]byte(all), id)); got != want {
			t.Errorf("goroutine %d stands at %q, want %q", id, got, want)
		}
	}
	own := make(chan string)
	go func() { own <- stackOf(allStacks(), GoroutineID()) }()
	if got := <-own; !strings.Contains(got, "allStacks") || strings.Contains(got, "tRunner") {
		t.Errorf("the caller's own stack is %s", got)
	}
	if GoroutineID() == 0 {
		t.Error("no number")
	}
	if got := stackOf([]byte(all), GoroutineID()<<40); got != "" {
		t.Errorf("found %s", got)
	}
}

// BenchmarkStacks is what a report costs, with the world standing still.
func BenchmarkStacks(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			gate := make(chan bool)
			defer close(gate)
			for range n {
				go func() { <-gate }()
			}
			for b.Loop() {
				if len(allStacks()) == 0 {
					b.Fatal("none")
				}
			}
		})
	}
}
