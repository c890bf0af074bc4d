//go:build unix

package proctest

import "golang.org/x/sys/unix"

// Monotonic returns the time since the machine started, in nanoseconds, which is the same in all
// its processes.
func Monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}
