// Package tally counts how often locks are taken, and where, in a build with the tag tally:
//
//	go test -tags tally ./engine/frametest
//
// In any other build its Mutex is sync.Mutex, and Note is nothing. It is for the locks on
// the way of a frame, of which there must not be more the more loops there are.
package tally
