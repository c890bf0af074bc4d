//go:build unix

package dbasync

import (
	"os"
	"syscall"
)

// What may befall a backend of the server.
func stop(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
func goOn(pid int) error { return syscall.Kill(pid, syscall.SIGCONT) }
func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// giveTo makes like's owner that of path.
func giveTo(path string, like os.FileInfo) error {
	owner := like.Sys().(*syscall.Stat_t)
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}
