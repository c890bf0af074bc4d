package door

import (
	"testing"
	"testing/synctest"
	"time"
)

// turn takes a place for 1 ms and tells how long it was gone altogether.
func turn(p *places) time.Duration {
	begin := time.Now()
	since := p.take()
	time.Sleep(time.Millisecond)
	p.leave(since)
	return time.Since(begin)
}

func TestPlacesRestInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{free: make(chan struct{}, 1)}
		if d := turn(p); d != time.Millisecond {
			t.Errorf("without a flood a place was taken for %v, want 1ms", d)
		}
		for range wasteFlood {
			p.noteShed()
		}
		if d := turn(p); d != (1+restFactor)*time.Millisecond {
			t.Errorf("in a flood a place was taken for %v, want %v", d, (1+restFactor)*time.Millisecond)
		}
		since := p.take()
		time.Sleep(time.Second) // it had no processor
		begin := time.Now()
		p.shed.Store(begin.UnixNano())
		if p.leave(since); time.Since(begin) != restMost {
			t.Errorf("a place rested for %v after a second, want %v", time.Since(begin), restMost)
		}
		time.Sleep(wasteAge)
		if d := turn(p); d != time.Millisecond {
			t.Errorf("after the flood a place was taken for %v, want 1ms", d)
		}
		p.noteShed()
		if d := turn(p); d != time.Millisecond {
			t.Errorf("one handshake that is shed makes a flood again: a place was taken for %v", d)
		}
	})
}

func TestHandshakesThatEndMakeNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{free: make(chan struct{}, 1)}
		for range 10 * wasteFlood { // clients that come back together: some are shed, most get through
			p.noteShed()
			p.noteDone()
			p.noteDone()
		}
		if d := turn(p); d != time.Millisecond {
			t.Errorf("a place was taken for %v, want 1ms", d)
		}
		for range 10 * wasteMost {
			p.noteShed()
		}
		for range wasteMost {
			p.noteDone()
		}
		if d := turn(p); d != time.Millisecond {
			t.Errorf("after as many handshakes as are remembered a place was taken for %v, want 1ms", d)
		}
	})
}
