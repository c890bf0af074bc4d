//go:build !unix

package selfstats

// Serve does nothing here: the suite measures on Linux.
func Serve() {}
