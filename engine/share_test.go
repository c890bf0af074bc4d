package engine

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
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
	if q := d.l.out.Queued.Load(); q < size-members || q > size+members*(outbox.ReferCost+1) {
		t.Errorf("%d bytes counted in the outbox", q)
	}
	if held := d.Stats().Memory; held < size || held > 2*size+members*outbox.ReferCost {
		t.Errorf("%d bytes are held for one frame of %d and %d members", held, size, members)
	}
	if n := all[0].Stats().Unsent; n != size+8 {
		t.Errorf("%d bytes unsent, want %d", n, size+8)
	}
	for _, s := range all[:100] { // these go without it
		d.l.disconnected(s, netio.EndReset)
	}
	d.settleAll()
	if held := d.Stats().Memory; held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
	if q, lost := d.l.out.Queued.Load(), d.Stats().LostBytes; q != 0 || lost != 100*(size+8) {
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
	d := newDesk(t, Config{Limits: Limits{MaxOutbox: limit}}, &funcs{})
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
	if q := d.l.out.Queued.Load(); n == 1000 || q > limit+100*(outbox.ReferCost+8) {
		t.Errorf("%d sends, %d bytes wait, limit %d", n, q, limit)
	}
	d.settleAll()
	if _, err := g.Send(1, 1, nil); err != nil {
		t.Error(err)
	}
	d.settleAll()
}

// What many peers are slow to read of broadcasts is held once for their loop, and no
// longer than any of them has still to read it.
func TestUnreadBroadcastsAreHeldOnce(t *testing.T) {
	const peers, each, n = 200, 16 << 10, 64 // 1 MiB
	d := newDesk(t, Config{Limits: Limits{MaxOutbound: 4 << 20}, Timeouts: Timeouts{FirstFrameTimeout: Off}, Socket: Socket{UserTimeout: Off}}, &funcs{})
	var all []*Session
	var wires []*fakeWire
	for range peers {
		s, w := d.open(0)
		all, wires = append(all, s), append(wires, w)
	}
	d.settleAll()
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	body := bytes.Repeat([]byte("x"), each-8)
	for range n {
		if err := d.Broadcast(1, 1, body); err != nil {
			t.Fatal(err)
		}
		d.turns()
	}
	if grown, held := heap()-before, d.Stats().Memory; grown > 4*mib || held < mib || held > 4*mib {
		t.Errorf("the heap has grown by %d bytes and %d are counted, for 1 MiB of broadcasts", grown, held)
	}
	if got := all[7].Stats().Unsent; got != n*each {
		t.Errorf("%d bytes unsent, want %d", got, n*each)
	}
	for i, w := range wires[1:] {
		if i%2 == 0 {
			w.give(n * each)
		} else {
			d.l.disconnected(w.s, netio.EndReset)
		}
	}
	d.sweepNow()
	d.settleAll()
	if left := d.l.out.Log.Len(); left != n*each {
		t.Errorf("%d bytes are kept, and one peer has read none of %d", left, n*each)
	}
	wires[0].give(n * each)
	d.sweepNow()
	d.settleAll()
	if left, held := d.l.out.Log.Len(), d.Stats().Memory; left != 0 || held > emptyLog {
		t.Errorf("%d bytes are kept and %d counted when all have read or gone", left, held)
	}
	one := frame(1, 1, string(body))
	for i, w := range wires {
		if i%2 == 1 && !bytes.Equal(w.got, bytes.Repeat(one, n)) {
			t.Errorf("peer %d got %d bytes", i, len(w.got))
		}
	}
}
