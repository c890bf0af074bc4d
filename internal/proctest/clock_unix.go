//go:build unix

package proctest

import "golang.org/x/sys/unix"

// Monotonic is the time since the machine's start in nanoseconds, which all its processes
// share.
func Monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}
