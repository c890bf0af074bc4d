// Package timers benchmarks millrace's timers against those of another framework, against one
// time.AfterFunc for each timer, and against one entry of the library for each timer, in one run:
//
//	go test -bench . -benchtime 1x ./... -args -large
//
// It is a separate module, so that users of millrace do not depend on the others.
package timers
