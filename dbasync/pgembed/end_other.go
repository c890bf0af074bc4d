//go:build unix && !linux

package pgembed

import "syscall"

func endWithUs(*syscall.SysProcAttr) {}
