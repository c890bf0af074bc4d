// Package flight is a session's flight recorder: a ring of its last events, of a fixed
// size, to which any goroutine adds without allocating.
//
// An event is 16 bytes: when, what, how often, and two numbers whose meaning depends on
// what. Frames of one handle that come or leave one after another are one event, and so is
// anything else that repeats itself. The package knows nothing of sessions; who adds gives
// the time, in nanoseconds on a clock of its own.
package flight
