package dispatch_test

import (
	"context"
	"log/slog"
	"runtime"
	"syscall"
	"testing"

	"millrace/engine/internal/sched"
)

// task wakes whoever reads the pipe, as an answer wakes the loop that is to write it.
type task struct {
	sched.Task
	pipe [2]int
	b    [1]byte
}

func (j *task) Run()                              { syscall.Write(j.pipe[1], j.b[:]) }
func (j *task) Step() uint32                      { return 0 }
func (j *task) Long()                             {}
func (j *task) Running() (string, uint16, uint16) { return "", 0, 0 }

// BenchmarkHandOver is a packet's way through a thread that waits in the kernel, as a
// loop does: run there and then, or by an idle worker that wakes the thread again. The
// difference is what a hand-over costs.
func BenchmarkHandOver(b *testing.B) {
	p := sched.New(sched.Config{Workers: 2 * runtime.GOMAXPROCS(0), MaxQueue: 1, Logger: slog.New(slog.DiscardHandler)})
	if err := p.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	j := &task{}
	j.Init(j)
	if err := syscall.Pipe(j.pipe[:]); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.Stop(context.Background()) // the benchmark's own has ended
		syscall.Close(j.pipe[0])
		syscall.Close(j.pipe[1])
	})
	for name, run := range map[string]func(){"inline": j.Run, "worker": func() { p.Push(&j.Task, j.Home()) }} {
		b.Run(name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var got [1]byte
			for b.Loop() {
				run()
				if n, err := syscall.Read(j.pipe[0], got[:]); n != 1 {
					b.Fatal(n, err)
				}
			}
		})
	}
}
