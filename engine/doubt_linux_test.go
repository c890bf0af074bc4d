package engine

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/cputime"
)

// A handler that holds up its loop goes to the workers after a few calls, whatever it waits for; or
// if it computes.
func TestWhatHoldsUpALoopGoesToTheWorkers(t *testing.T) {
	const long = 5 * time.Millisecond
	var mu sync.Mutex
	ch := make(chan bool)
	fifo := t.TempDir() + "/fifo"
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	later := func(f func()) { time.AfterFunc(long, f) }
	for name, hold := range map[string]func(){
		"sleep":   func() { time.Sleep(long) },
		"channel": func() { later(func() { ch <- true }); <-ch },
		"lock": func() {
			mu.Lock()
			later(mu.Unlock)
			mu.Lock()
			defer mu.Unlock()
		},
		"file": func() { // its open waits for a writer
			later(func() { os.WriteFile(fifo, []byte("x"), 0) })
			os.ReadFile(fifo)
		},
		"system call": func() {
			ts := syscall.NsecToTimespec(int64(long))
			syscall.Nanosleep(&ts, nil)
		},
		"computes": func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for from := cputime.Thread(); cputime.Thread()-from < long; {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var on atomic.Bool
			srv := serve(t, Config{Loops: 1}, &funcs{read: func(s *Session, p codec.Packet) {
				if on.Load() {
					hold()
				}
				echo(s, p)
			}})
			c := dial(t, srv)
			learn(t, srv, c, 1, 1)
			on.Store(true)
			calls := 0
			for ; srv.Stats().Demoted == 0; calls++ {
				if calls == 50 {
					t.Fatal("still inline after 50 calls")
				}
				c.send(1, 1, "x")
				c.expect(1, 1, "x")
			}
			t.Logf("moved after %d calls", calls)
		})
	}
}

// A handler that does not return goes to the workers while it runs, once.
func TestAHandlerThatDoesNotReturnIsMoved(t *testing.T) {
	gate, inside := make(chan bool), make(chan bool, 1)
	srv := serve(t, Config{Loops: 1}, &funcs{read: func(s *Session, p codec.Packet) {
		if string(p.Body) == "stay" {
			inside <- true
			<-gate
		}
		echo(s, p)
	}})
	a, b := dial(t, srv), dial(t, srv)
	learn(t, srv, a, 1, 1)
	a.send(1, 1, "stay")
	<-inside
	waitFor(t, "the handle to be moved", func() bool { return srv.Stats().Demoted > 0 })
	waitFor(t, "the handle to be learned anew", func() bool {
		b.send(1, 1, "x")
		b.expect(1, 1, "x")
		return srv.RunsInline(1<<16 | 1)
	})
	time.Sleep(5 * standInAfter) // it is not moved again for the same call
	close(gate)
	a.expect(1, 1, "stay")
	if n := srv.Stats().Demoted; n != 1 {
		t.Errorf("moved %d times", n)
	}
}
