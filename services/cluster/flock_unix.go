//go:build unix

package cluster

import (
	"os"
	"syscall"
)

// lockFile takes the file's lock, or returns EWOULDBLOCK at once when another process has it.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
