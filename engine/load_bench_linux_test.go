package engine

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/dispatch"
)

// BenchmarkKeyedFeed is a feed of 1,000 keys to 10,000 subscribers, one op a value to all of
// them, with keys and without. Some may read nothing: those who get plain pushes would be
// closed.
func BenchmarkKeyedFeed(b *testing.B) {
	const subscribers, keys = 10_000, 1000
	for _, x := range []struct {
		keyed bool
		deaf  int
	}{{false, 0}, {true, 0}, {true, subscribers / 10}} {
		b.Run(fmt.Sprintf("keyed=%v/deaf=%d", x.keyed, x.deaf), func(b *testing.B) {
			d := newDesk(b, Config{Limits: Limits{MemoryBudget: 1<<31 - 1}, Timeouts: Timeouts{FirstFrameTimeout: Off}, Socket: Socket{UserTimeout: Off}}, &funcs{})
			d.table = newTable(2 * subscribers)
			g := d.Group("feed")
			for i := range subscribers {
				s, w := d.open(-1)
				w.blind = true
				if i < x.deaf {
					w.room = 0
				}
				if _, err := g.Join(s); err != nil {
					b.Fatal(err)
				}
			}
			d.settleAll()
			body := make([]byte, 56)
			send := func(n int) {
				err := error(nil)
				if x.keyed {
					_, err = g.SendKeyed(uint64(n%keys), 1, 1, body)
				} else {
					_, err = g.Send(1, 1, body)
				}
				if err != nil {
					b.Fatal(err)
				}
				d.turns()
			}
			for n := range keys {
				send(n)
			}
			held := d.budget.Used()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				send(n)
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*subscribers), "ns/delivery")
			if x.deaf > 0 {
				b.ReportMetric(float64(held)/float64(x.deaf), "B/deaf")
			}
		})
	}
}

// BenchmarkOverload is three times of what a slow handle can do, in an open loop of 3 s, with
// a budget of 50 ms and without. best is what can be done, in answers a second.
func BenchmarkOverload(b *testing.B) {
	const takes, workers, conns, times, lasts = 10 * time.Millisecond, 4, 60, 3, 4 * time.Second
	slow := &funcs{read: func(s *Session, p codec.Packet) {
		time.Sleep(takes)
		s.Reply(p, p.Body)
	}}
	best := 0.0
	for _, budget := range []time.Duration{Off, 50 * time.Millisecond} {
		b.Run(fmt.Sprintf("budget=%v", max(budget, 0)), func(b *testing.B) {
			cfg := Config{Workers: workers, SpareWorkers: Off, Dispatch: Ordered, Overload: Overload{WaitBudget: budget}}
			for b.Loop() {
				if best == 0 {
					best = closedLoop(b, serve(b, cfg, slow), 4*workers, lasts/3)
				}
				good, refused, took := openLoop(b, serve(b, cfg, slow), conns, times*best, lasts)
				slices.Sort(took)
				b.ReportMetric(best, "best/s")
				b.ReportMetric(good/best, "goodput")
				b.ReportMetric(refused/best, "refused")
				if n := len(took); n > 0 {
					b.ReportMetric(float64(took[n/2].Milliseconds()), "p50-ms")
					b.ReportMetric(float64(took[n*99/100].Milliseconds()), "p99-ms")
				}
			}
		})
	}
}

// closedLoop is how many answers a second some clients get that ask one thing after the other.
func closedLoop(b *testing.B, srv *Server, conns int, lasts time.Duration) float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range conns {
		c := dial(b, srv)
		wg.Go(func() {
			for time.Since(began) < lasts {
				c.send(1, 1, "")
				c.expect(1, 1, "")
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

// openLoop asks at a rate, whatever comes back. It returns answers and refusals in a second,
// and how long the answers took.
func openLoop(b *testing.B, srv *Server, conns int, rate float64, lasts time.Duration) (good, refused float64, took []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	began := time.Now()
	every := time.Duration(float64(conns) / rate * float64(time.Second))
	for i := range conns {
		c := dial(b, srv)
		var sent []time.Duration // guarded by lock
		var lock sync.Mutex
		wg.Go(func() { // asks
			for at := every * time.Duration(i) / time.Duration(conns); at < lasts; at += every {
				time.Sleep(at - time.Since(began))
				lock.Lock()
				sent = append(sent, time.Since(began)) // a generator that is late is not the server's fault
				lock.Unlock()
				c.send(1, 1, "")
			}
		})
		wg.Go(func() { // reads
			c.SetReadDeadline(began.Add(lasts))
			for n := 0; ; n++ {
				p, err := c.r.Next()
				if err == io.EOF || err != nil {
					return
				}
				now := time.Since(began)
				lock.Lock()
				at := sent[n]
				lock.Unlock()
				mu.Lock()
				if p.Main == 1 {
					good++
					took = append(took, now-at)
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return good / lasts.Seconds(), refused / lasts.Seconds(), took
}

// BenchmarkMeteredTurn is what a loop does with one read, as BenchmarkInlineTurn, with each of
// what may be counted of a session, and without.
func BenchmarkMeteredTurn(b *testing.B) {
	for _, name := range []string{"off", "wait", "rates", "costs"} {
		o := map[string]Overload{"wait": {WaitBudget: time.Second}, "rates": {FrameRate: 1 << 30, ByteRate: 1 << 30}, "costs": {Costs: true}}[name]
		for _, n := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/frames=%d", name, n), func(b *testing.B) {
				srv, s, _ := loose(b, &funcs{read: echo})
				waitFor(b, "the accept", s.in.Quiet)
				srv.cfg.Dispatch, s.loop.mode, srv.cfg.Overload = Inline, dispatch.Inline, o
				srv.costs.on = o.costs()
				s.more().meter = s.loop.newMeter()
				var frames []byte
				for range n {
					frames = codec.Packet{Main: 1, Sub: 1, Body: make([]byte, 64)}.Append(frames)
				}
				b.ReportAllocs()
				for b.Loop() {
					(*sink)(s).Received(frames)
				}
			})
		}
	}
}
