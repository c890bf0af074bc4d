// Package tally counts how often locks are taken, and where, in a build with the tag tally:
//
//	go test -tags tally ./engine/frametest
//
// In any other build Mutex is sync.Mutex, and Note does nothing. It is for the locks taken for each
// frame, whose number must not grow with the number of loops.
package tally
