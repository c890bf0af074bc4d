package engine

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/cputime"
)

func sum[T any](list []T, busy func(T) time.Duration) (n time.Duration) {
	for _, x := range list {
		n += busy(x)
	}
	return n
}

// sums are what the three lists of a report add up to.
func (c Costs) sums() (sessions, handles, tags time.Duration) {
	return sum(c.Sessions, func(x SessionCost) time.Duration { return x.Busy }) + c.Closed,
		sum(c.Handles, func(x HandleCost) time.Duration { return x.Busy }),
		sum(c.Tags, func(x TagCost) time.Duration { return x.Busy })
}

// burner answers 1/1 at once, uses a CPU for the time of 1/2, and waits for that of 1/3. It
// keeps its own account of what 1/2 used, by the thread's clock.
type burner struct {
	funcs
	used atomic.Int64
	most atomic.Int64 // of one request; they come one at a time
}

func newBurner(each time.Duration) *burner {
	h := &burner{}
	h.read = func(s *Session, p codec.Packet) {
		switch p.Sub {
		case 2:
			runtime.LockOSThread()
			began := cputime.Thread()
			for cputime.Thread() < began+each {
			}
			took := int64(cputime.Thread() - began)
			h.used.Add(took)
			h.most.Store(max(h.most.Load(), took))
			runtime.UnlockOSThread()
		case 3:
			time.Sleep(10 * each)
		case 4:
			s.SetTag(string(p.Body))
		}
		s.Reply(p, p.Body)
	}
	return h
}

// Each nanosecond is charged to one session, one handle and one tag, whatever comes and goes;
// who computes is charged what that took and named first, who waits is not.
func TestWhoCostsWhat(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			const each, burns = 2 * time.Millisecond, 100
			h := newBurner(each)
			srv := serve(t, Config{Dispatch: d, Workers: 4, Overload: Overload{Costs: true}, Handles: map[uint32]Dispatch{1<<16 | 3: Ordered}}, h)
			r := srv.CostReader()
			var wg sync.WaitGroup
			var first *client
			for i := range 12 {
				c := dial(t, srv)
				if i == 0 {
					first = c
				}
				c.send(1, 4, fmt.Sprint("tag ", i%3))
				c.expect(1, 4, fmt.Sprint("tag ", i%3))
				wg.Go(func() {
					if i == 0 {
						for range burns {
							c.send(1, 2, "")
							c.expect(1, 2, "")
						}
						return
					}
					for n := range 30 {
						c.send(1, 1, "x")
						c.expect(1, 1, "x")
						if n%10 == 0 {
							c.send(1, 3, "x")
							c.expect(1, 3, "x")
						}
					}
					if i%2 == 0 {
						c.Close()
					}
				})
			}
			wg.Wait()
			waitFor(t, "some to go", func() bool { return srv.Stats().Conns <= 7 })
			used := time.Duration(h.used.Load())
			var all Costs
			waitFor(t, "the last turns", func() bool {
				all = srv.costsSoFar(r)
				s, h, g := all.sums()
				return s == all.Busy && h == all.Busy && g == all.Busy
			})
			burnt, waited := time.Duration(0), time.Duration(0)
			for _, x := range all.Handles {
				switch x.Sub {
				case 2:
					burnt = x.Busy
				case 3:
					waited = x.Busy
				}
			}
			// The first one is charged as a short turn, before it is known to be long.
			missing := time.Duration(h.most.Load()) + each + used/20
			if low, high := used-missing, used+used/5+20*time.Millisecond; burnt < low || burnt > high {
				t.Errorf("1/2 used %v and was charged %v", used, burnt)
			}
			if waited > 33*each {
				t.Errorf("1/3 waited for %v, 33 times, and was charged %v", 10*each, waited)
			}
			if x := all.Sessions[0]; x.Tag != "tag 0" || x.Busy < used-missing || len(all.Sessions) > 1 && all.Sessions[1].Busy > x.Busy/4 {
				t.Errorf("the dearest sessions are %v, one used %v", all.Sessions, used)
			}
			if x := all.Tags[0]; x.Tag != "tag 0" {
				t.Errorf("the dearest tags are %v", all.Tags)
			}
			if all.Closed == 0 || all.Process < all.Busy/2 {
				t.Errorf("closed sessions cost %v, the process %v of %v", all.Closed, all.Process, all.Busy)
			}
			first.Close()
			waitFor(t, "the first to go", func() bool { return srv.Stats().Conns <= 6 })
			if again := r.Next(10); again.Closed > all.Busy/2 || again.Busy > all.Busy/2 {
				t.Errorf("%v of a session that closed were counted twice: %v in all", again.Closed, again.Busy)
			}
		})
	}
}

// costsSoFar is r's next report, together with those that were read before through it.
func (srv *Server) costsSoFar(r *CostReader) Costs {
	r.process, r.closed, r.sessions, r.accounts = 0, 0, map[ID]int64{}, map[*account]int64{}
	return r.Next(1000)
}

// One among many who costs far more than the others is named.
func TestOneAmongManyIsNamed(t *testing.T) {
	many := 300
	if *long {
		many = 4000
	}
	h := newBurner(5 * time.Millisecond)
	srv := serve(t, Config{Overload: Overload{Costs: true}}, h)
	var list []*client
	for range many {
		c := dial(t, srv)
		c.send(1, 1, "")
		c.expect(1, 1, "")
		list = append(list, c)
	}
	stop := make(chan bool)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := n; ; i = (i + 4) % many {
				select {
				case <-stop:
					return
				default:
				}
				if c := list[i]; i != 17 {
					c.send(1, 1, "")
					c.expect(1, 1, "")
				}
			}
		})
	}
	r := srv.CostReader()
	for range 20 {
		list[17].send(1, 2, "")
		list[17].expect(1, 2, "")
	}
	got := r.Next(3)
	close(stop)
	wg.Wait()
	var addr string
	if s := srv.Session(got.Sessions[0].ID); s != nil {
		addr = s.RemoteAddr().String()
	}
	named := slices.ContainsFunc(got.Handles, func(h HandleCost) bool { return h.Main == 1 && h.Sub == 2 }) // all of 1/1 together may cost more
	if addr != list[17].LocalAddr().String() || len(got.Sessions) != 3 || !named {
		t.Errorf("%s is named, with %v and %v, of %v", addr, got.Sessions, got.Handles, got.Busy)
	}
}
