// Package flight is a session's flight recorder: a ring of its last events, of a fixed
// size, to which any goroutine adds without allocating.
//
// An event takes 16 bytes: a time, a kind, a count, and two numbers whose meaning depends on the kind.
// Consecutive frames of one handle are one event, and so is any other event that repeats. The caller
// passes the time, in nanoseconds on a clock of its choice.
package flight
