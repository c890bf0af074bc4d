package engine

import "testing"

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
