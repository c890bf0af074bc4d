//go:build !tally

package tally

import "sync"

// On tells whether anything is counted.
const On = false

// Mutex is a sync.Mutex.
type Mutex = sync.Mutex

// Note counts one write to memory that many share, under that name.
func Note(string) {}

// Reset forgets what has been counted.
func Reset() {}

// Read returns what has been counted since, by the function that it happened in or the name
// that Note was given.
func Read() map[string]Count { return nil }

// Count is how often something happened, and how often it had to wait for somebody else.
type Count struct{ Times, Waited int64 }
