//go:build linux || darwin

package main

import (
	"os"
	"syscall"
)

// lock takes the file for this process until it is closed, however the process ends.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		return errInUse
	}
	return err
}
