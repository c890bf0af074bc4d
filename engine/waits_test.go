package engine

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/codec"
)

// queue is a queue in front of some workers, in simulated time: requests come at a rate and
// take some time each.
type queue struct {
	workers int
	takes   time.Duration
	budget  time.Duration // 0: none

	standing       standing
	waits          []time.Duration // of those that were handled
	refused, count int
}

// run has requests come for d, so many a second, from a time on. It returns when the last
// one has left.
func (q *queue) run(from, d time.Duration, rate int) (end time.Duration) {
	free := make([]time.Duration, q.workers)
	for at := from; at < from+d; at += time.Second / time.Duration(rate) {
		first := slices.Index(free, slices.Min(free))
		now := max(at, free[first])
		q.count++
		if q.budget > 0 && q.standing.leaves(int64(now-at), int64(q.budget), int64(now)+1) {
			q.refused++
			continue
		}
		q.waits = append(q.waits, now-at)
		free[first] = now + q.takes
		end = max(end, free[first])
	}
	return end
}

func (q *queue) p99() time.Duration {
	slices.Sort(q.waits)
	return q.waits[len(q.waits)*99/100]
}

// At three times of what can be done, almost as much is done as can be, and nobody who is
// served has waited for much longer than the budget; without one, all have waited for ever
// longer.
func TestAStandingQueueIsKeptShort(t *testing.T) {
	const budget, seconds = 50 * time.Millisecond, 10
	for _, x := range []struct {
		workers int
		takes   time.Duration
	}{{1, 100 * time.Microsecond}, {1, 2 * time.Millisecond}, {4, 2 * time.Millisecond}, {4, 20 * time.Millisecond}, {16, 40 * time.Millisecond}} {
		most := int(time.Duration(x.workers) * time.Second / x.takes)
		for _, times := range []int{2, 3, 10} {
			q := queue{workers: x.workers, takes: x.takes, budget: budget}
			q.run(0, seconds*time.Second, times*most)
			if good := len(q.waits); good < most*seconds*95/100 {
				t.Errorf("%+v at %d times of it: %d done in %d s, %d a second can be", x, times, good, seconds, most)
			}
			if p99 := q.p99(); p99 > budget+waitInterval {
				t.Errorf("%+v at %d times of it: p99 of the wait is %v", x, times, p99)
			}
			q = queue{workers: x.workers, takes: x.takes}
			q.run(0, seconds*time.Second, times*most)
			if p99 := q.p99(); p99 < time.Second {
				t.Errorf("%+v at %d times of it, without a budget: p99 of the wait is %v: no overload", x, times, p99)
			}
		}
	}
}

// A load that can be done is done, and so is a burst that is gone in less than an interval
// more than the budget; when an overload is over, so are refusals.
func TestAQueueThatDrainsIsLeftAlone(t *testing.T) {
	q := queue{workers: 4, takes: 2 * time.Millisecond, budget: 50 * time.Millisecond}
	end := q.run(0, 10*time.Second, 1950)
	for range 20 {
		end = q.run(end+time.Second, 10*time.Millisecond, 25_000) // 125 ms of work
	}
	if q.refused > 0 {
		t.Errorf("%d of %d refused", q.refused, q.count)
	}
	end = q.run(end, 5*time.Second, 6000)
	was := q.refused
	if was == 0 {
		t.Fatal("nothing was refused in an overload")
	}
	q.run(end+10*time.Millisecond, 5*time.Second, 1950)
	q.run(end+time.Hour, 10*time.Millisecond, 25_000)
	if q.refused > was {
		t.Errorf("%d refused after the overload", q.refused-was)
	}
}

// Requests that have waited too long get ERROR 4 in their place, each request one answer in
// its order; PINGs and handles without a budget go on, and so does all when there is less to
// do.
func TestRequestsThatWaitedTooLongGetError4(t *testing.T) {
	const budget, clients, each = 20 * time.Millisecond, 8, 50
	cfg := Config{Workers: 1, SpareWorkers: Off, Dispatch: Ordered, Overload: Overload{WaitBudget: budget, HandleWaits: map[uint32]time.Duration{1<<16 | 2: Off}}}
	srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
		if len(p.Body) > 0 {
			time.Sleep(5 * time.Millisecond)
		}
		s.Reply(p, p.Body)
	}})
	var wg sync.WaitGroup
	var mu sync.Mutex
	served, refused := 0, 0
	for range clients {
		c := dial(t, srv)
		wg.Go(func() {
			var b []byte
			for i := range each {
				b = append(b, frame(1, uint16(1+i%2), string(rune('a'+i%20)))...)
				b = append(b, frame(0, SubPing, "p")...)
			}
			c.Write(b)
			c.SetDeadline(time.Now().Add(time.Minute))
			pongs := 0
			for i := 0; i < each; {
				p, err := c.r.Next()
				if err != nil {
					t.Errorf("answer %d: %v", i, err)
					return
				}
				mu.Lock()
				want := codec.Packet{Main: 1, Sub: uint16(1 + i%2), Body: []byte{byte('a' + i%20)}}
				switch {
				case p.Main == 0 && p.Sub == SubPong:
					pongs++
					i--
				case p.Handle() == want.Handle() && string(p.Body) == string(want.Body):
					if want.Sub == 1 {
						served++
					}
				case p.Main == 0 && p.Sub == SubError && want.Sub == 1 && string(p.Body[:6]) == "\x00\x04\x00\x01\x00\x01":
					refused++
				default:
					t.Errorf("answer %d is %d/%d %q, want %d/%d %q or ERROR 4", i, p.Main, p.Sub, p.Body, want.Main, want.Sub, want.Body)
				}
				mu.Unlock()
				i++
			}
			if pongs != each {
				t.Errorf("%d PONGs, want %d", pongs, each)
			}
		})
	}
	wg.Wait()
	if n := srv.Stats().Limited[ThrottleWait]; served == 0 || refused == 0 || int(n) != refused {
		t.Errorf("%d served, %d refused, %d counted", served, refused, n)
	}
	c := dial(t, srv)
	for range 30 { // as much as waits for less than the budget
		c.send(1, 1, "")
		c.expect(1, 1, "")
	}
}

// Requests of a client that leaves its answers unread wait for the client, and are handled
// when it reads. A busy machine has them wait for itself as well, so what is refused is
// tried again with a longer budget, and the client's pauses are longer than each.
func TestWhoReadsLateIsNotRefused(t *testing.T) {
	var err error
	for _, budget := range []time.Duration{300 * time.Millisecond, 2 * time.Second, 8 * time.Second} {
		if err = readLate(t, budget); err == nil {
			return
		}
		t.Logf("budget %v: %v", budget, err)
	}
	t.Error(err)
}

// readLate leaves answers unread for twice the budget, and returns what comes but answers.
func readLate(t *testing.T, budget time.Duration) error {
	const requests, size = 60, 60 << 10
	cfg := Config{Dispatch: Ordered, MaxFrame: 1 << 20, Socket: Socket{SocketSendBuffer: 8 << 10}, Overload: Overload{WaitBudget: budget}}
	srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) { s.Reply(p, make([]byte, size)) }})
	c := dial(t, srv)
	var b []byte
	for range requests {
		b = append(b, frame(1, 1, "x")...)
	}
	c.Write(b)
	waitFor(t, "the strand to wait, or a refusal", func() bool {
		st := srv.Stats()
		return st.Parks > 0 || st.Limited[ThrottleWait] > 0
	})
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	for i := range requests {
		if i%40 == 0 {
			<-time.After(2 * budget)
		}
		p, err := c.r.Next()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if p.Main != 1 || len(p.Body) != size {
			return fmt.Errorf("answer %d is %d/%d %.20q", i, p.Main, p.Sub, p.Body)
		}
	}
	return nil
}

// Of the queue that all have in common only the first request of a turn tells: one that came
// while its session had a worker has waited for nobody, and ends no overload.
func TestOnlyTheFirstOfATurnTellsOfTheQueue(t *testing.T) {
	d := newDesk(t, Config{Overload: Overload{WaitBudget: 50 * time.Millisecond}}, &funcs{})
	d.epoch = d.epoch.Add(-time.Hour)
	s, _ := d.open(-1)
	d.settleAll()
	p, q := codec.Packet{Main: 1, Sub: 1}, &d.waits.rest.queue
	now := d.now()
	q.since.Store(now - int64(time.Second))
	q.last.Store(now)
	s.meter().first = false
	if s.overdue(d.waits, p, d.now()) || q.since.Load() == 0 {
		t.Error("a request within a turn has ended the overload")
	}
	if !s.overdue(d.waits, p, now-int64(time.Second)) {
		t.Error("a request within a turn that has waited for a second was not refused")
	}
	s.turnBegins()
	if s.overdue(d.waits, p, d.now()) || q.since.Load() != 0 {
		t.Error("the first request of a turn did not wait, and the overload goes on")
	}
}
