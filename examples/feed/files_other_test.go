//go:build !unix

package main

// openFiles: there is no such limit.
func openFiles(want int) int { return want }
