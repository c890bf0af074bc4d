package servicestest_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/enginetest"
	"millrace/timerwheel"
)

// clocks are timers on a pool, without a server.
type clocks struct {
	w    *enginetest.World
	s    *timerwheel.Service
	pool *engine.Pool
	next timerwheel.TimerID
}

// lateMost is how late a callback may come while a worker is free: a tick, one more where it
// was refused, a tick for what stands behind a slow one, and the world's own pace.
const lateMost = 40 * time.Millisecond

// clocksWorld has timers on a pool that starts late, with slow callbacks, submitters that go,
// kills and repeats: none comes early, too often or behind its kill, and none waits for
// another's callback.
func clocksWorld(w *enginetest.World) {
	pool, err := w.NewPool(engine.PoolConfig{Workers: 4})
	w.Check(err)
	g := &gate{pool: pool}
	s, err := timerwheel.New(timerwheel.Config{Shards: 1, Logger: w.Logger()}, g)
	w.Check(err)
	x := &clocks{w: w, s: s, pool: pool}
	w.Check(s.Start(context.Background()))
	w.Defer(func() {
		if err := s.Stop(context.Background()); err != nil {
			w.Errorf("Stop: %v", err)
		}
		if n := s.Len(); n != 0 {
			w.Errorf("%d timers are left", n)
		}
	})
	fired := 0
	w.Check(s.SetTimer(x.id(), time.Millisecond, 1, func(timerwheel.Firing) { fired++ }))
	if w.Chance(2) {
		w.Advance(w.Between(0, 20*time.Millisecond)) // they are due and there is nobody
	}
	w.Check(pool.Start(context.Background()))
	g.open.Store(true)
	w.Until(func() bool { return fired == 1 })
	for range 2 + w.Pick(5) {
		switch w.Pick(4) {
		case 0:
			x.oneIsSlow()
		case 1:
			x.kills()
		case 2:
			x.repeats()
		case 3:
			x.submittersGo()
		}
		w.Advance(w.Between(0, 50*time.Millisecond))
	}
	w.Advance(2 * time.Second)
}

// gate is a pool that says it is closed until it is open.
type gate struct {
	pool *engine.Pool
	open atomic.Bool
}

func (g *gate) Submit(fn func()) error {
	if !g.open.Load() {
		return net.ErrClosed
	}
	return g.pool.Submit(fn)
}

func (x *clocks) id() timerwheel.TimerID { x.next++; return x.next }

// oneIsSlow: of timers of the service's own that are due at once one takes long, and the
// others are run by other workers meanwhile.
func (x *clocks) oneIsSlow() {
	n, slow, left := 10+x.w.Pick(50), x.w.Pick(10), 0
	at := time.Now().Add(10 * time.Millisecond)
	for i := range n {
		left++
		x.w.Check(x.s.SetTimer(x.id(), time.Until(at), 1, func(timerwheel.Firing) {
			left--
			if i == slow {
				time.Sleep(400 * time.Millisecond)
			} else if late := time.Since(at); late < 0 || late > lateMost {
				x.w.Errorf("a timer beside a slow one came %v late", late)
			}
		}))
	}
	x.w.Until(func() bool { return left == 0 })
}

// kills: no run begins behind the kill, which waits for none.
func (x *clocks) kills() {
	set := x.s.For(x.pool.Strand())
	for range 1 + x.w.Pick(10) {
		killed, ran, id := false, 0, x.id()
		w := x.w
		w.Check(set.SetTimer(id, w.Between(time.Millisecond, 10*time.Millisecond), w.Pick(3), func(timerwheel.Firing) {
			if ran++; killed {
				w.Errorf("a killed timer has fired")
			}
			if w.Chance(2) {
				time.Sleep(20 * time.Millisecond)
			}
		}))
		w.Advance(w.Between(0, 12*time.Millisecond))
		began := w.Now()
		set.KillTimer(id)
		if killed = true; w.Now() != began {
			w.Errorf("a kill took %v", w.Now()-began)
		}
	}
	x.w.Advance(30 * time.Millisecond)
	set.Close()
}

// repeats: as often as asked, without drift.
func (x *clocks) repeats() {
	w, set := x.w, x.s.For(x.pool.Strand())
	every, repeat, ran, began := w.Between(3*time.Millisecond, 15*time.Millisecond), 1+w.Pick(80), 0, time.Now()
	if w.Chance(3) {
		every, repeat = w.Between(300*time.Millisecond, 2*time.Second), 1+w.Pick(3)
	}
	w.Check(set.SetTimer(1, every, repeat, func(f timerwheel.Firing) {
		ran++
		if due := began.Add(time.Duration(f.N) * every); time.Now().Before(due) || time.Since(due) > lateMost/2 {
			w.Errorf("firing %d of %d is %v late", f.N, repeat, time.Since(due))
		}
	}))
	w.Advance(time.Duration(repeat+1)*every + 2*lateMost)
	if skipped := int(x.s.Stats().Skipped); ran > repeat || ran < repeat && skipped == 0 {
		w.Fatalf("a timer fired %d times of %d", ran, repeat)
	}
	set.Close()
}

// submittersGo: sets whose strand closes while their callbacks run end without holding up
// others.
func (x *clocks) submittersGo() {
	w := x.w
	began, ran := time.Now(), 0
	w.Check(x.s.SetTimer(x.id(), 10*time.Millisecond, 5, func(f timerwheel.Firing) {
		ran++
		if late := time.Since(began.Add(time.Duration(f.N) * 10 * time.Millisecond)); late > lateMost {
			w.Errorf("a timer came %v late beside sets whose submitters go", late)
		}
	}))
	for range 2 {
		strand := x.pool.Strand()
		set := x.s.For(strand)
		for id := range timerwheel.TimerID(3) {
			w.Check(set.SetTimer(id, 5*time.Millisecond, 0, func(timerwheel.Firing) { time.Sleep(100 * time.Millisecond) }))
		}
		w.After(w.Between(5*time.Millisecond, 20*time.Millisecond), func() { _ = strand.Close() })
	}
	w.Until(func() bool { return ran == 5 })
}

func TestClocks(t *testing.T) {
	enginetest.Run(t, enginetest.Options{Seeds: seeds, InOrder: true}, clocksWorld)
}
