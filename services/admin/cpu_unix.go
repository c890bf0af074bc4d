//go:build unix

package admin

import (
	"syscall"
	"time"
)

// processCPU is the CPU time that this process has taken, the kernel's part included.
func processCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
