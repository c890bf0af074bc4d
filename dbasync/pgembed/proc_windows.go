package pgembed

import (
	"os"
	"syscall"
)

func asAccount(account) *syscall.SysProcAttr  { return nil }
func serverAttr(account) *syscall.SysProcAttr { return nil }

func endGroup(pid int) error {
	killGroup(pid)
	return nil
}

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
}
