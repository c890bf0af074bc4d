//go:build unix

package admin

import "syscall"

// ownerOnly removes the permissions of other users from a unix socket before it is bound: Linux
// gives the file the mode of the socket, and the umask can't add permissions.
func ownerOnly(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
		return cerr
	}
	if err == syscall.EINVAL { // not supported: only the directory protects it until chmod
		return nil
	}
	return err
}
