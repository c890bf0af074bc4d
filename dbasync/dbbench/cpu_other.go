//go:build !unix

package dbbench

import "time"

// cpuTime is not known here: figures per CPU are 0.
func cpuTime() time.Duration { return 0 }
