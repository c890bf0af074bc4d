package door

import (
	"crypto/tls"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// deaf is a loop that does nothing when it is asked to.
type deaf struct{ standstill }

func (deaf) Execute() error { return nil }

// Of too many handshakes that wait for their clients those that have waited longest are closed, each after shedAfter at
// least, a few at a time, until there are no more than MaxHandshakes; those that wait for their turn don't count.
func TestHandshakesAreShedAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, all, pending = 8, 600, 50
		h := &Host{cfg: Config{MaxHandshakes: most}}
		s := newHandshakes(h)
		h.shakes = s
		l := &loop{Loop: deaf{}, h: h}
		var list []*conn
		enter := func(n int) {
			for range n {
				c := &conn{Conn: &comer{}, l: l, phase: handshake}
				c.tls = &tlsLayer{c: c, shake: &shake{}}
				list = append(list, c)
				s.admit(c)
				s.waits(c, c.tls.shake, true)
			}
		}
		shed := func() int { return int(h.st.shed.Load()) }
		enter(all / 2)
		time.Sleep(shedAfter / 2)
		enter(all/2 + pending)
		for _, c := range list[all:] {
			c.tls.shake.slow = true
			s.mu.Lock()
			s.unwaitLocked(c.tls.shake)
			c.tls.shake.place = s.slow.paying.PushBack(c)
			s.mu.Unlock()
		}
		time.Sleep(shedAfter/2 - time.Millisecond)
		if n := shed(); n != 0 {
			t.Fatalf("%d are shed before their time", n)
		}
		for range 50 { // some, and a part of those over
			before := shed()
			time.Sleep(shedStep)
			if n := shed() - before; n > 1+all/shedPart {
				t.Fatalf("%d are shed at once", n)
			}
		}
		if n := shed(); n < 50 || n > all/2 {
			t.Errorf("%d are shed then, want at least one in %v and none that came later", n, shedStep)
		}
		time.Sleep(time.Minute)
		if n := shed(); n != all-most {
			t.Errorf("%d are shed at last, want %d", n, all-most)
		}
		for i, c := range list {
			if open := s.waiters.Len() > 0 && c.tls.shake.wait != nil || c.tls.shake.place != nil; open != (i >= all-most) {
				t.Errorf("number %d is open: %v", i, open)
			}
		}
		s.stop()
	})
}

// A place rests for as long as it is told to, and not for too long when who had it was held up.
func TestPlacesRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(places, 1)
		for _, c := range []struct{ turn, want time.Duration }{{0, 0}, {time.Millisecond, 20 * time.Millisecond}, {time.Second, restMost}} {
			since := p.take()
			time.Sleep(c.turn)
			begin, rested := time.Now(), false
			p.rest(since, 20, func() { rested = true })
			p.take()
			p.leave()
			synctest.Wait()
			if d := time.Since(begin); d != c.want || !rested {
				t.Errorf("after %v it rested for %v and told so: %v; want %v", c.turn, d, rested, c.want)
			}
		}
	})
}

// Suspects have their turns one after the other: who can be asked as they came, who can't from the last one on, and neither
// keeps the other from it.
func TestTurnsOfSuspects(t *testing.T) {
	h := &Host{cfg: Config{MaxHandshakes: 8}}
	s := newHandshakes(h)
	h.shakes = s
	l := &loop{Loop: deaf{}, h: h}
	s.groups = retryable(&tls.Config{})
	lone, both := helloOf(&tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}), helloOf(&tls.Config{})
	names := map[*conn]string{}
	add := func(name string, ask bool) {
		hello := lone
		if ask {
			hello = both
		}
		c := &conn{Conn: &comer{}, l: l, phase: handshake}
		c.tls = &tlsLayer{c: c, shake: &shake{in: hello}}
		names[c] = name
		s.pend(c.tls)
	}
	s.slow.starting = true // one is there already
	for _, name := range []string{"a1", "a2", "a3", "a4"} {
		add(name, true)
	}
	for _, name := range []string{"p1", "p2", "p3"} {
		add(name, false)
	}
	var got []string
	for range 20 {
		s.begun()
		s.mu.Lock()
		s.nextLocked() // nobody begins before the one in front has had its turn
		s.mu.Unlock()
		for _, j := range l.jobs {
			got = append(got, names[j.c])
		}
		if len(l.jobs) > 1 {
			t.Fatalf("%d begin at once", len(l.jobs))
		}
		l.jobs = nil
	}
	want := "[a1 p3 a2 p2 a3 p1 a4]"
	if s := fmt.Sprint(got); s != want {
		t.Errorf("they began as %s, want %s", s, want)
	}
	s.slow.answered = mostAnswered
	add("late", true)
	s.begun()
	if len(l.jobs) != 0 {
		t.Error("one more is asked while as many as may have answered and wait")
	}
}
