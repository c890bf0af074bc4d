package pgembed

import "syscall"

// endWithUs follows the thread that started the child, so Start holds that thread.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
