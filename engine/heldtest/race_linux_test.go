//go:build race

package heldtest

// The race detector's pools drop at random what they are given: memory is not looked at.
func init() { raced = true }
