package main

import (
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "run the long form of the load over three nodes: 3,000 sessions")

// record is what one client has seen of a group: of each sender the last number.
type record struct {
	end  int          // a sender's last number
	ends atomic.Int64 // how many of them have come
	last map[string]int
	seen int
	bad  []string
}

// listen takes 1/8 until the connection ends: each sender's numbers only grow.
func (r *record) listen(c *peer) {
	r.last = map[string]int{}
	for {
		f, err := c.next()
		if err != nil {
			return
		}
		if f.main != 1 || f.sub != 8 {
			continue
		}
		var from string
		var n int
		if _, err := fmt.Sscanf(c.parse(f)["data"].(string), "%s %d", &from, &n); err != nil {
			r.bad = append(r.bad, f.body)
			continue
		}
		if last, ok := r.last[from]; ok && n <= last {
			r.bad = append(r.bad, fmt.Sprintf("%s: %d behind %d", from, n, last))
		}
		r.last[from] = n
		r.seen++
		if n == r.end {
			r.ends.Add(1)
		}
	}
}

// Three nodes, sessions on all of them in one group, a sender on each; one node is killed in
// mid-load. Every client's record is looked at: nothing twice, nothing out of order, and of
// senders on nodes that live nothing is missing at the end.
func TestAGroupOverThreeNodesOneOfWhichIsKilled(t *testing.T) {
	t.Parallel()
	each, rounds := 20, 150
	if *long {
		each, rounds = 1000, 300
	}
	dir, _ := natsServer(t)
	var all []*process
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, serveNode(t, dir, name))
	}
	for _, s := range all {
		s.dial().knows("a=up b=up c=up")
	}
	records := make([][]*record, len(all))
	var listening sync.WaitGroup
	for i, s := range all {
		for range each {
			c := s.dial()
			if _, code := c.ask(1, 5, `{"group":"load"}`); code != 0 {
				t.Fatalf("1/5: ERROR %d", code)
			}
			r := &record{end: rounds}
			records[i] = append(records[i], r)
			listening.Go(func() { r.listen(c) })
		}
	}
	var sending sync.WaitGroup
	var sent [3]atomic.Int64
	for i, s := range all {
		c := s.dial()
		sending.Go(func() {
			for n := range rounds {
				if i == 2 && n == rounds/2 {
					s.signal(syscall.SIGKILL)
					return
				}
				c.send(1, 7, fmt.Sprintf(`{"group":"load","data":"%s %d"}`, s.node(), n))
				for {
					f, err := c.next()
					if err != nil {
						t.Error(err)
						return
					}
					if f.main == 1 && f.sub == 7 {
						break
					}
				}
				sent[i].Store(int64(n))
			}
		})
	}
	sending.Wait()
	watch := all[0].dial()
	watch.knows("a=up b=up")
	for i, s := range all[:2] { // and what all are still sent comes
		c := s.dial()
		if obj, code := c.ask(1, 7, fmt.Sprintf(`{"group":"load","data":"%s %d"}`, s.node(), rounds)); code != 0 || number(obj["sent"]) != int64(2*each) {
			t.Errorf("1/7 by %s at the end: %v, ERROR %d, want %d", s.node(), obj, code, 2*each)
		}
		sent[i].Store(int64(rounds))
	}
	whole := func() bool {
		return !slices.ContainsFunc(slices.Concat(records[:2]...), func(r *record) bool { return r.ends.Load() < 2 })
	}
	for end := time.Now().Add(patience); !whole() && time.Now().Before(end); { // what is missing then is told below
		time.Sleep(10 * time.Millisecond)
	}
	for _, s := range all[:2] {
		s.stop()
	}
	<-all[2].ended
	listening.Wait()
	for i, of := range records[:2] {
		for k, r := range of {
			if len(r.bad) > 0 {
				t.Fatalf("client %d of %s: %q", k, all[i].node(), r.bad)
			}
			for j, s := range all[:2] {
				if got := r.last[s.node()]; got != int(sent[j].Load()) {
					t.Errorf("client %d of %s has had %s up to %d of %d", k, all[i].node(), s.node(), got, sent[j].Load())
				}
			}
			if least := 2 * (rounds + 1); r.seen < least {
				t.Errorf("client %d of %s has had %d frames, want at least %d", k, all[i].node(), r.seen, least)
			}
		}
	}
}
