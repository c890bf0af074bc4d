//go:build linux || darwin

package main

import (
	"os"
	"syscall"
)

// lock locks the file for this process until it is closed or the process ends.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		return errInUse
	}
	return err
}
