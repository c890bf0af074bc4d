// Package frametest holds the tests of what a frame costs, in things that can be counted:
// allocations, system calls, locks and writes to memory that loops share. They need no quiet
// machine, so that a trick that is lost is seen the day it is lost. Those of locks want a
// build that counts them:
//
//	go test -tags tally ./engine/frametest
//
// With -cores they look at more loops, as docs/sharing.md tells.
package frametest
