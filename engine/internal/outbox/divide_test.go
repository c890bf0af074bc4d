package outbox

import (
	"bytes"
	"testing"
)

// Next gives nothing from both sides of a division, and what is in front of one that is no
// other's stays in front, also of a closed box.
func TestNothingIsGivenAcrossADivision(t *testing.T) {
	m := newModel(1)
	p := m.boxes[0]
	p.LeaveLog()
	send := func(text string) {
		p.Send(m.sh, plain, 1, 0, []byte(text), Answer)
	}
	for i, want := range []bool{true, false} {
		if got := p.Divide(m.sh); got != want {
			t.Errorf("division %d of nothing: fresh %v, want %v", i, got, want)
		}
	}
	send("one")
	send("two")
	if !p.Divide(m.sh) || p.Divide(m.sh) {
		t.Error("behind two frames there is not one more division")
	}
	send("three")
	if p.Close(m.sh); !p.Divide(m.sh) {
		t.Error("what a closed box has unwritten is in front of what would follow")
	}
	p.Begin(m.sh, LookAsked)
	for i, want := range []string{"one", "three"} {
		b := p.Next(m.sh)
		if n := uint64(i + 1); !bytes.Contains(b, []byte(want)) || i == 0 && bytes.Contains(b, []byte("three")) || p.Divisions() != n {
			t.Errorf("%q behind %d divisions, want %q behind %d", b, p.Divisions(), want, n)
		}
		p.Wrote(m.sh, len(b), true)
	}
	if n := p.Divisions(); n != 2 || !p.Done() {
		t.Errorf("%d divisions, done %v", n, p.Done())
	}
	p.Drop(m.sh)
}
