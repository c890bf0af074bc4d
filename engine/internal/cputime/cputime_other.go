//go:build !linux

// Package cputime tells how much CPU time a thread and the process have used.
package cputime

import "time"

// Known tells whether Thread works on this system.
const Known = false

// Thread is 0 here.
func Thread() time.Duration { return 0 }

// Process is 0 here.
func Process() time.Duration { return 0 }

// Mark is a point in the run of a thread.
type Mark struct{}

// Here returns a mark that tells nothing.
func Here() Mark { return Mark{} }

// Ran is false here.
func (Mark) Ran() (time.Duration, bool) { return 0, false }
