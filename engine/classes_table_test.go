package engine

import (
	"testing"
	"time"
)

// Handles that a client makes up can't keep a real one from being learned.
func TestAFullTableStillLearns(t *testing.T) {
	c := newClasses(8)
	for h := uint32(1); h <= 100_000; h++ {
		c.place(makeEntry(h, kindQuick, 0, 0, 0))
	}
	const real = 0xABCD0001
	if !c.place(makeEntry(real, kindLearn, 0, 0, 1)) {
		t.Fatal("no room for another handle")
	}
	if e, _ := c.get(real); e.runs() != 1 {
		t.Fatalf("got entry %x, want the one placed", uint64(e))
	}
}

// Handles whose dispatch is fixed are never thrown out.
func TestFixedHandlesStay(t *testing.T) {
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}, &funcs{})
	if err != nil {
		t.Fatal(err)
	}
	for h := uint32(1); h <= 300; h++ {
		srv.SetDispatch(h, Ordered)
	}
	for h := uint32(1000); h < 100_000; h++ {
		srv.classes.Load().place(makeEntry(h, kindQuick, 0, 0, 0))
	}
	for h := uint32(1); h <= 300; h++ {
		if srv.classes.Load().inline(h, Adaptive) || srv.classes.Load().inline(h, Inline) {
			t.Fatalf("handle %d would run inline", h)
		}
	}
}

// Stalls far apart don't take a quick handle from its loop; stalls together do.
func TestStrikesFade(t *testing.T) {
	const handle = 1<<16 | 1
	d := newDesk(t, Config{}, &funcs{})
	c := d.classes.Load()
	c.place(makeEntry(handle, kindQuick, 0, 0, 0))
	for range 100 {
		for range maxStrikes - 1 {
			d.learn.strike(c, handle, stallTime)
		}
		if !c.inline(handle, Adaptive) {
			t.Fatal("taken back for stalls that were long ago")
		}
		d.epoch = d.epoch.Add(-strikeFade - time.Second)
	}
	for range maxStrikes {
		d.learn.strike(c, handle, stallTime)
	}
	if c.inline(handle, Adaptive) || d.demoted.Load() != 1 {
		t.Error("not taken back for stalls together")
	}
}
