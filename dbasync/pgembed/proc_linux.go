package pgembed

import "syscall"

// procAttr runs the child under cred, in a process group of its own (a ^C at
// the terminal reaches us, and we stop it in order), and ends it with us.
//
// Pdeathsig follows the thread that started the child, so Start holds that
// thread (see wait).
func procAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
