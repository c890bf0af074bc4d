// Package cputime tells how much CPU time a thread and the process have used.
package cputime

import (
	"syscall"
	"time"
	"unsafe"
)

// Known tells whether Thread works on this system.
const Known = true

const rusageThread = 1

// Thread is the CPU time, user's and system's, of the thread that the caller runs on. Two
// calls can be compared if runtime.LockOSThread holds between them.
func Thread() time.Duration { return usage(rusageThread) }

// Mark is a point in the run of a thread.
type Mark struct {
	thread int
	used   time.Duration
	waits  int64
}

// Here returns the mark of the caller's thread. It takes two system calls, which do not block.
func Here() Mark {
	var u syscall.Rusage
	_, _, _ = syscall.RawSyscall(syscall.SYS_GETRUSAGE, rusageThread, uintptr(unsafe.Pointer(&u)), 0)
	id, _, _ := syscall.RawSyscall(syscall.SYS_GETTID, 0, 0, 0)
	return Mark{int(id), total(&u), int64(u.Nvcsw)}
}

// Ran returns the CPU time that the thread has used since the mark. It is false if the calling
// goroutine may have waited for something meanwhile: it runs on another thread, or the thread has
// given up its processor by itself. That of a thread which the system has put aside is not given up
// by itself. It is also false where the system does not count this.
func (m Mark) Ran() (time.Duration, bool) {
	now := Here()
	return now.used - m.used, now.thread == m.thread && now.waits == m.waits && now.waits > 0
}

// Process is the CPU time of the process.
func Process() time.Duration { return usage(syscall.RUSAGE_SELF) }

func usage(who int) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(who, &u) != nil {
		return 0
	}
	return total(&u)
}

func total(u *syscall.Rusage) time.Duration { return time.Duration(u.Utime.Nano() + u.Stime.Nano()) }
