package sched

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A manual pool runs what it is given, in that order, and nothing else.
func TestManualPoolRunsWhatItIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hand := make(chan struct{}, 1)
		p := New(Config{Workers: 2, MaxQueue: 8, Manual: hand, Logger: slog.New(slog.DiscardHandler)})
		if err := p.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		var ran []int
		turns := make([]*turnOf, 4)
		for i := range turns {
			turns[i] = &turnOf{fn: func() { ran = append(ran, i) }}
			turns[i].task.Init(turns[i])
			p.Push(&turns[i].task, turns[i].task.Home())
		}
		if err := p.Submit(func() { ran = append(ran, 9) }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(ran) != 0 || len(hand) != 1 {
			t.Fatalf("ran %v by itself; told %d times", ran, len(hand))
		}
		for _, i := range []int{2, 0, 2, 1, 0} { // of 0 1 2 3 fn
			if !p.Give(i) {
				t.Fatalf("Give(%d): nothing there", i)
			}
			synctest.Wait()
		}
		if want := []int{2, 0, 9, 3, 1}; !slices.Equal(ran, want) {
			t.Fatalf("ran %v, want %v", ran, want)
		}
		if p.Give(0) || p.Waiting() != 0 {
			t.Fatal("something is left")
		}
		stop := make(chan error, 1)
		go func() { stop <- p.Stop(context.Background()) }()
		synctest.Wait()
		if !p.Look() {
			t.Fatal("Look ends no worker of a pool that stops")
		}
		if err := <-stop; err != nil {
			t.Fatal(err)
		}
	})
}

// Look starts spare workers for those that are blocked, and ends them when they are not
// needed any more.
func TestManualPoolHasSpareWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Workers: 1, Spare: 2, MaxQueue: 8, Manual: make(chan struct{}, 1), Logger: slog.New(slog.DiscardHandler)})
		if err := p.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 3 {
			if err := p.Submit(func() { time.Sleep(100 * time.Millisecond) }); err != nil {
				t.Fatal(err)
			}
		}
		for range 40 {
			for p.Give(0) {
			}
			p.Look()
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		if st := p.Stats(); st.Workers != 3 || st.Queue != 0 || st.Blocked != 3 {
			t.Fatalf("got %d workers, %d blocked, %d waiting; want 3, 3, 0", st.Workers, st.Blocked, st.Queue)
		}
		for range 200 {
			time.Sleep(10 * time.Millisecond)
			p.Look()
			synctest.Wait()
		}
		if st := p.Stats(); st.Workers != 1 {
			t.Fatalf("%d workers, want 1", st.Workers)
		}
		go p.Stop(context.Background())
		synctest.Wait()
		p.Look()
	})
}

// turnOf is a task that runs a function.
type turnOf struct {
	task Task
	fn   func()
}

func (x *turnOf) Run()                                      { x.fn() }
func (*turnOf) Step() uint32                                { return 0 }
func (*turnOf) Long()                                       {}
func (*turnOf) Running() (session string, main, sub uint16) { return "", 0, 0 }
