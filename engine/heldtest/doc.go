// Package heldtest tests from outside that a server holds as much memory as it says:
// that engine.Stats.Memory, which MemoryBudget limits, is what the heap has grown by. It
// has nothing but tests. The server under test runs in a process of its own, so that the
// memory of its clients is not looked at.
package heldtest
