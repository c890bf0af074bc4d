//go:build !linux && !darwin

package main

import "os"

// lock does nothing on systems on which the engine does not run.
func lock(*os.File) error { return nil }
