//go:build unix

package admin

import "syscall"

// ownerOnly takes a unix socket's mode from others before it is bound, as Linux gives the
// file that of the socket. No umask can open it.
func ownerOnly(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
		return cerr
	}
	if err == syscall.EINVAL { // not on this system: the directory has to protect it until chmod
		return nil
	}
	return err
}
