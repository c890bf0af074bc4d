//go:build unix

package admin

import (
	"syscall"
	"time"
)

// processCPU returns the CPU time used by this process, including system time.
func processCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
