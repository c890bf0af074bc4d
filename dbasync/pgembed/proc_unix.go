//go:build unix

package pgembed

import "syscall"

// asAccount runs a child as the account.
func asAccount(a account) *syscall.SysProcAttr {
	if !a.other {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
}

// serverAttr runs the server as the account, in a process group of its own (so that ^C at the
// terminal reaches only this process, which then stops the server), and makes it end with this
// process where the system supports that.
func serverAttr(a account) *syscall.SysProcAttr {
	attr := asAccount(a)
	attr.Setpgid = true
	endWithUs(attr)
	return attr
}

// endGroup asks initdb and its children to end.
func endGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGTERM) }

// killGroup kills the server and its children.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
