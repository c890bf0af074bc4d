// Package timers runs millrace's timers beside those of another framework, and
// beside one time.AfterFunc and one library entry a timer, in one run:
//
//	go test -bench . -benchtime 1x ./... -args -large
//
// It is a module of its own, so that a rival reaches nobody who imports millrace.
package timers
