//go:build tally

package tally

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// On reports whether anything is counted.
const On = true

// Mutex is a sync.Mutex that counts.
type Mutex struct{ mu sync.Mutex }

func (m *Mutex) Lock() {
	var pc [1]uintptr
	runtime.Callers(2, pc[:])
	c := at(&sites, pc[0])
	c.times.Add(1)
	if !m.mu.TryLock() {
		c.waited.Add(1)
		m.mu.Lock()
	}
}

func (m *Mutex) Unlock() { m.mu.Unlock() }

// Note counts one write to shared memory, under the given name.
func Note(name string) { at(&names, name).times.Add(1) }

// counted is what was counted under one key.
type counted struct{ times, waited atomic.Int64 }

var sites, names sync.Map // of uintptr, a place in the code, or string to *counted

func at(m *sync.Map, key any) *counted {
	if c, ok := m.Load(key); ok {
		return c.(*counted)
	}
	c, _ := m.LoadOrStore(key, &counted{})
	return c.(*counted)
}

// Reset resets all counts.
func Reset() {
	sites.Clear()
	names.Clear()
}

// Read returns the counts since the last Reset, by function or by the name given to Note.
func Read() map[string]Count {
	all := map[string]Count{}
	add := func(name string, c *counted) {
		n := all[name]
		n.Times += c.times.Load()
		n.Waited += c.waited.Load()
		all[name] = n
	}
	sites.Range(func(pc, c any) bool {
		f, _ := runtime.CallersFrames([]uintptr{pc.(uintptr)}).Next()
		add(f.Function, c.(*counted))
		return true
	})
	names.Range(func(name, c any) bool {
		add(name.(string), c.(*counted))
		return true
	})
	return all
}

// Count is how often a lock was taken or memory written, and how often a goroutine had to wait for
// it.
type Count struct{ Times, Waited int64 }
