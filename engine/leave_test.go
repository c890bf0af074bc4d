package engine

import (
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"millrace/engine/internal/netio"
)

// Once Leave has returned, nothing of the group is sent to who left, however many send at
// that moment.
func TestNothingOfAGroupIsSentAfterLeave(t *testing.T) {
	d := newDesk(t, Config{Limits: Limits{MaxOutbound: 1 << 30}}, &funcs{})
	g := d.Group("g")
	var all []*Session
	for range 50 {
		s, w := d.open(-1)
		w.blind = true
		g.Join(s)
		all = append(all, s)
	}
	d.settleAll()
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := g.Send(1, 1, []byte("x")); err != nil && !errors.Is(err, ErrBusy) {
					t.Error(err)
				}
			}
		}()
	}
	const rounds = 500
	late := 0
	for round := range rounds {
		s := all[round%len(all)]
		if _, err := g.Leave(s); err != nil {
			t.Error(err)
		}
		before := s.Stats().FramesOut
		for range 5 {
			runtime.Gosched()
		}
		d.step()
		if s.Stats().FramesOut != before {
			late++
		}
		g.Join(s)
	}
	close(stop)
	wg.Wait()
	if late > 0 {
		t.Errorf("%d of %d leavers were sent something afterwards", late, rounds)
	}
	for _, s := range all {
		d.l.disconnected(s, netio.EndReset)
	}
	d.settleAll()
}

// Nobody who joins, leaves or closes waits for a group send that is under way.
func TestNobodyWaitsForAGroupSend(t *testing.T) {
	d := newDesk(t, Config{}, &funcs{})
	g := d.Group("g")
	var all []*Session
	for range 10 {
		s, _ := d.open(-1)
		g.Join(s)
		all = append(all, s)
	}
	alone, _ := d.open(-1)
	late, _ := d.open(-1)
	d.settleAll()
	idle := d.budget.Used()
	inside, gate, sent := make(chan bool), make(chan bool), make(chan error, 1)
	go all[9].out.Atomically(func() { close(inside); <-gate }) // the send can't get past this one
	<-inside
	go func() {
		_, err := g.Send(1, 1, nil)
		sent <- err
	}()
	waitFor(t, "the send to be under way", func() bool { return d.budget.Used() > idle })
	done := make(chan bool)
	go func() {
		defer close(done)
		all[0].Close()
		alone.Close()
		g.Leave(all[1])
		g.Join(late)
		g.Len()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("they wait for the send")
	}
	select {
	case err := <-sent:
		t.Errorf("the send has not waited: %v", err)
	default:
	}
	close(gate)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	<-done
	d.settleAll()
}
