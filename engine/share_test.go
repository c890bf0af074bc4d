package engine

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
)

// A group send holds its frame once, whatever the number of members, counts that in the
// outbox, and gives it back when all have had it or have gone.
func TestGroupSendHoldsItsFrameOnce(t *testing.T) {
	const members, size = 1000, 60_000
	d := newDesk(t, Config{}, &funcs{})
	g := d.Group("g")
	var all []*Session
	var wires []*fakeWire
	for range members {
		s, w := d.open(-1)
		if _, err := g.Join(s); err != nil {
			t.Fatal(err)
		}
		all, wires = append(all, s), append(wires, w)
	}
	d.settleAll()
	body := bytes.Repeat([]byte("x"), size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sent, err := g.Send(1, 1, body)
	runtime.ReadMemStats(&after)
	if sent != members || err != nil {
		t.Fatalf("sent to %d, %v", sent, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 3*size+100*members {
		t.Errorf("the send took %d bytes", got)
	}
	if q := d.l.queued.Load(); q < size-members || q > size+members*(segCost+1) {
		t.Errorf("%d bytes counted in the outbox", q)
	}
	frame := all[0].out.segs[0].ref
	if n := frame.refs.Load(); n != members {
		t.Errorf("%d references, want %d", n, members)
	}
	if n := all[0].Stats().Unsent; n != size+8 {
		t.Errorf("%d bytes unsent, want %d", n, size+8)
	}
	for _, s := range all[:100] { // these go without it
		d.l.gone(s, false, false)
	}
	d.settleAll()
	if n := frame.refs.Load(); n != 0 {
		t.Errorf("%d references left", n)
	}
	if q, lost := d.l.queued.Load(), d.Stats().LostBytes; q != 0 || lost != 100*(size+8) {
		t.Errorf("%d bytes counted, %d lost", q, lost)
	}
	want := append([]byte{0, 0, 0xea, 0x64, 0, 1, 0, 1}, body...)
	for i, w := range wires[100:] {
		if !bytes.Equal(w.got, want) {
			t.Fatalf("member %d got %d bytes", i+100, len(w.got))
		}
	}
}

// Group sends of many small frames, too, are refused when what they hold is at MaxOutbox.
func TestGroupSendsAreBounded(t *testing.T) {
	const limit = 64 << 10
	d := newDesk(t, Config{MaxOutbox: limit}, &funcs{})
	g := d.Group("g")
	for range 100 {
		s, _ := d.open(-1)
		g.Join(s)
	}
	d.settleAll()
	n := 0
	for ; n < 1000; n++ {
		if _, err := g.Send(1, 1, nil); errors.Is(err, ErrBusy) {
			break
		}
	}
	if q := d.l.queued.Load(); n == 1000 || q > limit+100*(segCost+8) {
		t.Errorf("%d sends, %d bytes wait, limit %d", n, q, limit)
	}
	d.settleAll()
	if _, err := g.Send(1, 1, nil); err != nil {
		t.Error(err)
	}
	d.settleAll()
}
