package dbasync

import "testing"

// TestLanesShareWhatWaits: what waits goes to the lanes that are up in equal parts of
// minShare or more, and who takes his part wakes the next.
func TestLanesShareWhatWaits(t *testing.T) {
	for _, tc := range []struct{ waits, up, want int }{
		{3, 4, 3}, {16, 4, 8}, {20, 2, 10}, {64, 4, 16}, {64, 1, 64}, {1000, 4, 64},
	} {
		db, err := New(Config{URL: "postgres://localhost/none"})
		if err != nil {
			t.Fatal(err)
		}
		q := &db.q
		q.lock()
		for _, l := range q.lanes[:tc.up] {
			l.open, l.waiting, l.maxBurst = true, true, db.cfg.MaxBurst
		}
		sh := &shape{}
		sh.desc.Store(&description{})
		for range tc.waits {
			r := db.newRequest()
			r.shape, r.desc = sh, sh.desc.Load()
			q.shared.pushBack(r)
		}
		first, left := q.lanes[0], tc.waits-tc.want
		first.waiting = false
		q.fill(first, &first.burst)
		if got := first.burst.queries(); got != tc.want {
			t.Errorf("%d waiting, %d lanes: the first takes %d, want %d", tc.waits, tc.up, got, tc.want)
		}
		if got := tc.up > 1 && q.lanes[1].woken; got != (tc.up > 1 && left > 0) {
			t.Errorf("%d waiting, %d lanes: the second is woken: %v", tc.waits, tc.up, got)
		}
		q.unlock()
	}
}
