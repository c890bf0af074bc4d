//go:build !unix

package timerbench

import "time"

// CPU is not known here: figures per CPU are 0.
func CPU() time.Duration { return 0 }
