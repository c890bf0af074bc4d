package nodes_test

import (
	"testing"

	"millrace/services/nodes"
)

// The numbers of processes that have ended are forgotten when there are many; those of one that lives,
// and of one that has lost its name for a moment, are not.
func TestStreamsOfEndedProcessesAreForgotten(t *testing.T) {
	const lives, pauses, silent = 1, 2, 3
	var x nodes.Numbers
	living := func() map[uint64]bool { return map[uint64]bool{lives: true} }
	x.Set(lives, 10, living)
	x.Set(silent, 30, living)
	for i := range uint64(20 * nodes.MaxStreams) {
		if i%(nodes.MaxStreams/4) == 0 {
			x.Set(pauses, 20+i, living)
		}
		if n, known := x.Of(pauses); !known || n != 20+i-i%(nodes.MaxStreams/4) {
			t.Fatalf("behind %d others: the number of one without a name for a moment is %d, known %v", i, n, known)
		}
		x.Set(1000+i, 1, living)
		if n := x.Len(); n > 2*(nodes.MaxStreams+2) {
			t.Fatalf("%d processes", n)
		}
	}
	if n, known := x.Of(lives); !known || n != 10 {
		t.Errorf("the number of one that lives is %d, known %v", n, known)
	}
	if _, known := x.Of(silent); known {
		t.Error("one that has ended is not forgotten")
	}
}

// With as many living processes as are kept, and more, a message does not look at all of them.
func TestManyStreamsAreSearchedSeldom(t *testing.T) {
	const all = 4*nodes.MaxStreams + 100
	searched, lives := 0, map[uint64]bool{}
	for p := range uint64(all) {
		lives[p] = true
	}
	var x nodes.Numbers
	for number := range uint64(4) {
		for p := range uint64(all) {
			x.Set(p, number, func() map[uint64]bool { searched++; return lives })
		}
	}
	if searched > 3 {
		t.Errorf("%d messages searched all processes %d times", 4*all, searched)
	}
	if n := x.Len(); n != all {
		t.Errorf("%d processes, want %d", n, all)
	}
}
