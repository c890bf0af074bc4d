//go:build unix

package main

import "syscall"

// openFiles has this process open so many files, where it may, and returns how many it can.
func openFiles(want int) int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || int64(l.Cur) >= int64(want) {
		return want
	}
	more := l
	for _, p := range []any{&more.Cur, &more.Max} { // they have a sign on some systems
		switch p := p.(type) {
		case *uint64:
			*p = max(*p, uint64(want))
		case *int64:
			*p = max(*p, int64(want))
		}
	}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return want
	}
	return int(l.Cur)
}
