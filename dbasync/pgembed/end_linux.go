package pgembed

import "syscall"

// endWithUs sets a death signal for the child. The signal is sent when the thread that started the
// child ends, so Start keeps that thread.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
