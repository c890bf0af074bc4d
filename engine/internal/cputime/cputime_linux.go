// Package cputime tells how much CPU time a thread and the process have used.
package cputime

import (
	"syscall"
	"time"
)

// Known tells whether Thread works on this system.
const Known = true

const rusageThread = 1

// Thread is the CPU time, user's and system's, of the thread that the caller runs on. Two
// calls can be compared if runtime.LockOSThread holds between them.
func Thread() time.Duration { return usage(rusageThread) }

// Process is that of the process.
func Process() time.Duration { return usage(syscall.RUSAGE_SELF) }

func usage(who int) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(who, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
