//go:build !tally

package tally

import "sync"

// On reports whether anything is counted.
const On = false

// Mutex is a sync.Mutex.
type Mutex = sync.Mutex

// Note counts one write to shared memory, under the given name.
func Note(string) {}

// Reset resets all counts.
func Reset() {}

// Read returns the counts since the last Reset, by function or by the name given to Note.
func Read() map[string]Count { return nil }

// Count is how often a lock was taken or memory written, and how often a goroutine had to wait for
// it.
type Count struct{ Times, Waited int64 }
