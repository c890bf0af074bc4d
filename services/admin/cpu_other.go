//go:build !unix

package admin

import "time"

// processCPU is not known here.
func processCPU() time.Duration { return 0 }
