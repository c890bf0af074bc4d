package proctest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// OnOneProcessor runs start, on a thread that may use one processor only, as then may the processes
// that start begins.
func OnOneProcessor(tb testing.TB, start func()) {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		tb.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		tb.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	start()
}
