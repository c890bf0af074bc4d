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
